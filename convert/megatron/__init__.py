"""Megatron-LM's checkpoints as the source or the target of a conversion.

- `rules.megatron`: which tensor is which, by megatron.core's names, and how ranks share one.
- `readers.megatron_files`: which iteration is opened; `readers.megatron_shards`: the ranks and the
  stages, whose layers it numbers; `readers.megatron_names`: one name for each tensor, whoever wrote
  it; `readers.megatron`: all of it as our parameters (ranks joined, old orders of rows, interleaved
  rope).
- `writers.megatron`: the files, the layers of each stage, Transformer Engine's names.

In:

- `source`.
- `arguments_in`: its saved arguments and tensors -> NeoX's keys; `sizes`: what the tensors show;
  `fixed`: arguments that must have one value.
- `consistency`: the tensors held against the model; `account`: what became of each.
- `training_in`: Adam's state; `schedule`: the learning rate; `loss_scale`: that of float16.

Out:

- `target`.
- `grid`: the ranks, stages and format that are asked for, refused where they cannot be.
- `export`: parameters -> tensors by megatron.core's names, cut for each rank.
- `arguments_out`: the arguments that Megatron-LM reads.
"""
