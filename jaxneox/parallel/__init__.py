"""Meshes of devices, and which of their axes splits what.

- `mesh`: the axes and their sizes; `divides`: what these must divide, layers among stages too.
- `rules`: which mesh axis splits which logical axis, the one table; ZeRO; `entries`: of its specs.
- `pipeline`: layers in stages; `schedule`: when which stage computes what.
- `ring`: the order of a sequence that several devices hold in parts.
- `exchange`: rows that devices send to the experts of others.
- `compilation`: the cache of compiled programs; `compiler_options`: how they are compiled.
"""
