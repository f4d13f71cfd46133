"""Models of Hugging Face's transformers as the source or the target of a conversion.

Which tensor is which: `rules.hf_*`. The files: `readers.hf_files` (in), `readers.hub` (by a name of
the hub and its revision), `writers.hf` (out: safetensors in shards).

- `families`: an entry for each architecture, of the types in `family`.
- `mamba`: the width of its state spaces.
- `config`: the model's keys of config.json <-> ModelConfig, with `activations`, `rope`, `windows`,
  `agreed` (values that two keys must share) and `keys_without_a_field`. `quantized`: what is
  refused before.
- `choice`: which architecture has exactly a model's function.
- `source`; `target` (also config.json's dtype and token ids).
- `tokenizer`; `download`: which files of the hub; `program`: transformers itself, for the proof.
"""
