"""Reads a compiled program's text: what it sends, computes and moves.

- `text`: the text, parsed into computations of instructions.
- `collectives`, `groups`: what is communicated, how often, and between which devices.
- `sent`: the same by kind and mesh axis, as a table.
- `overlap`: which of it is under way while something is computed, and how long a device waits.
- `work`, `convolution`, `library_calls`: FLOPs and bytes of memory.
"""
