"""Measures how good a checkpoint is: `jaxneox evaluate`.

- `command`, `arguments`: the command and its options.
- `corpus`: files as requests; texts are cut into sliding windows.
- `perplexity`: perplexities with their errors, and how two checkpoints differ.
- `harness`: lm-eval's tasks, by its own program; `local`: tasks from local files.
- `mesh`: the mesh if none is asked for.
- `report`: figures as tables and as JSON.

Requests are scored by `jaxneox.infer.scoring`, in batches of similar length.
"""
