"""Adapters of PEFT (Hugging Face's library of LoRA and others) from and to ours.

- `modules`: which module there has which rows and columns of a matrix here, by the rules of its
  family.
- `settings`: adapter_config.json, read and written; `patterns`: its ranks and scales by module.
- `tensors`: the matrices of a file, by module.
- `export`: ours as a folder of PEFT's.
- `blocks`: how several modules there become one matrix here; `importing`: a folder of theirs as a
  run of ours; `cached`: the same in the cache.
- `check`: what both ends add to each matrix, compared in float64.
"""
