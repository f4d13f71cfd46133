"""Convert checkpoints of other programs to and from jaxneox, and prove that the function stays.

The commands:

- `from_neox`, `to_neox`, `from_hf`, `to_hf`, `from_megatron`, `to_megatron`: flags and defaults.
- `from_peft`, `to_peft`: adapters; `merge_adapter`: one model of an adapter and its base.
- `fold_mup`: a model without muP's multipliers.
- `verify`: do two checkpoints compute the same; `inspect`: what is this one; `scores`: what NeoX
  computed beside several merges of its ranks.

What every conversion goes through:

- `conversion`: its steps, from refusing to certifying.
- `checkpoint`: what a Checkpoint, a Source and a Target are; `parts`: in which parts they move.
- `opening`: opens a checkpoint of any program.
- `cached`: a checkpoint of any program in our form, converted into the cache if need be.
- `refit`: a checkpoint with another's rows of the vocabulary and biases.
- `fate`: what became of each tensor; `casting`: numbers in another type.
- `tokenizers`: what is checked and noted of a tokenizer.
- `replaced_keys`: keys that a conversion sets anew, whatever names they had.
- `fixed`: settings that must have one value; `newer_features`: what NeoX and Megatron-LM do not
  get written.

The packages:

- `neox`, `megatron`, `hf`, `ours`: a family each: its source, its target, what is particular to it.
- `peft`: LoRA adapters, which are no whole models.
- `readers`, `writers`: files; `rules`: which tensor is which, for both directions.
- `inspection`: what a checkpoint is.
- `oracle`: both functions in float64; `proof`: two checkpoints held against each other.
"""
