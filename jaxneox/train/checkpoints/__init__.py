"""Resuming a run and saving it, in a folder that it holds alone.

- `resume`: which checkpoint a run starts from, and whether model, data and schedule fit it.
- `schedule`: the learning rate of the checkpoint instead of the YAML's, if it is asked for.
- `restore`: the state itself, new or restored; its counts place the run in its schedule.
- `new_rows`: rows for the tokens of a larger vocabulary, where only weights are taken.
- `heads`: a head for rewards, where the weights are a language model's.
- `reference`: the model at the run's start, where that is what it is compared with.
- `saving`: which steps become checkpoints.
- `noise`: the noise scale's state, of runs that begin or end to measure it.
- `lock`: one run at a time in a folder.
"""
