"""Checkpoints of other programs in and out: a checkpoint is a function, and conversions keep it."""
