"""The loop around the step, and what is done between steps.

- `loop`: batches in, figures and checkpoints out.
- `evaluations`: of the splits, and of lm-eval's tasks.
- `characters`: the perplexity of an evaluation by characters.
- `intervals`: at which steps a run saves and evaluates.
- `tasks`: lm-eval's tasks while a run trains.
- `replicas`: compares the bytes that devices should hold alike.
- `profile`: a trace of a few steps.
"""
