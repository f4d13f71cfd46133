"""Several processes as one run: who they are, what they agree on, and what happens when one ends.

`jax.distributed` joins them; this package decides what to ask of it, and handles the consequences.

- `group`: which processes make one run.
- `join`: enters `jax.distributed`, and leaves it by a barrier.
- `messages`: what the processes tell each other on the host.
- `stopping`: Ctrl-C and SIGTERM are caught, and stop all processes after the same step.
- `ending`: one process ends before the others; the exit statuses, and after which of them a
  restart helps.
- `watch`, `liveness`: heartbeats, and the verdict which process is dead or stuck.
- `supervisor`: starts the command as a child, filters its stderr, and starts it again.
"""
