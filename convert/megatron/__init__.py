"""Megatron-LM: what its arguments and tensors say about a model, and what they mean here."""
