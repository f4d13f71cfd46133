"""Runs side by side: `jaxneox compare`.

- `command`: the command and its options.
- `figures`: figures of runs, and how they differ; `picture`: their losses in one picture.
"""
