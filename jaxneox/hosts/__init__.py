"""Several processes as one run: who they are, what they agree on, and what happens when one ends.

`jax.distributed` is what joins them; here is only what it is asked for and what is done with it.
"""
