"""What Megatron-LM says of a model, what its tensors say, and what both mean here."""
