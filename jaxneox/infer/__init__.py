"""Inference from a checkpoint: text that goes on, and how likely text is."""
