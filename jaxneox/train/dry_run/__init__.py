"""What `--dry-run` prints, from shapes and a compiled program.

- `report`: parameters, memory and shardings, without a compiler.
- `memory`: the bytes of a device that are known without compiling.
- `program`: the compiled step, and what it says of itself.
"""
