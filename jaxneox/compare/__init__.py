"""Runs side by side: `jaxneox compare`.

- `command`: the command and its options.
- `figures`: what is compared of a run; `picture`: their losses in one picture.
"""
