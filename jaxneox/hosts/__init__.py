"""Several processes as one run: who they are, what they agree on, and what happens when one ends.

`jax.distributed` joins them; this package decides what to ask of it, and handles the consequences.
"""
