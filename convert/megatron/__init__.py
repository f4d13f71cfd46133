"""Megatron-LM's checkpoints as the source or the target of a conversion.

In:   source; arguments_in (its saved arguments and tensors -> NeoX's keys), sizes (what the tensors
      show), consistency (tensors held against the model), account, training_in, fixed (settings
      that must have one value),
      schedule, loss_scale
Out:  target, grid (ranks, stages, formats, and what they cannot compute), export (parameters ->
      tensors), arguments_out (the arguments that Megatron-LM reads)
"""
