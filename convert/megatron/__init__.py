"""Megatron-LM's checkpoints as the source or the target of a conversion.

Which tensor is which, by megatron.core's names: `rules.megatron`. The names and contents of files:
`readers.megatron_files` (which iteration is opened), `readers.megatron_shards` and
`readers.megatron_names` (in); `writers.megatron` (out: files, stages, Transformer Engine's names).

In:   source
      arguments_in (its saved arguments and tensors -> NeoX's keys), sizes (what the tensors show),
      fixed (arguments that must have one value)
      consistency (the tensors held against the model), account (what became of each)
      training_in, schedule, loss_scale (Adam's state, the learning rate, the scale of float16)
Out:  target
      grid (the ranks, stages and format that are asked for, refused where they cannot be)
      export (parameters -> tensors by megatron.core's names)
      arguments_out (the arguments that Megatron-LM reads)
"""
