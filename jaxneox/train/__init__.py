"""Training: the state, the step that is compiled, and the loop around it.

- `command`: arguments to a run, by one process or as one of several.
- `session`: the command from keys to the last line that it prints.
- `fit`: the same from Python.
- `keys`: of a run that begins or goes on.
- `plan`: what can be said of a run without allocating anything.
- `run`: a plan on its mesh, with its state, its data and its folder.
- `base_shapes`: writes muP's, instead of a training.
- `out_of_memory`: what a run that does not fit says.
- `step/`, `loop/`, `reporting/`, `checkpoints/`, `dry_run/`: see their docstrings.
"""
