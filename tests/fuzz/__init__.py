"""Broken and hostile files, made from a seed, given to the commands that read such files.

- `__main__`: `python -m tests.fuzz`, a table of kinds and outcomes; `kinds`: the files of each kind
  and the command that reads them; `bases`: small valid ones.
- `damage`: of bytes; `trees`: of JSON and YAML; `pickles`: opcode tricks.
- `worker`: one case in a process of its own, with limits of time and memory; `outcome`: what
  became of it.
"""
