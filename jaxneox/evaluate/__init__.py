"""Measures how good a checkpoint is: `jaxneox evaluate`.

- `command`, `arguments`: the command and its options.
- `corpus`: files as requests; texts are cut into sliding windows.
- `perplexity`: perplexities with their errors, and how two checkpoints differ.
- `rewards`: how a reward model values texts, alone or in pairs; `texts`: the files of them.
- `harness`: lm-eval's own program, whose version stands in pyproject.toml, on our model.
- `tasks`: its tasks and a user's own, checked against their documents; `local`: the files of tasks
  that are read here.
- `mesh`: the default mesh, without `--mesh`.
- `report`: figures as tables and as JSON.

Requests are scored by `jaxneox.infer.scoring`, in batches of similar length, whose size it sets.
"""
