"""What `--dry-run` prints, from shapes and a compiled program.

- `report`: parameters, memory and shardings, without a compiler.
- `program`: the compiled step, and what it says of itself.
"""
