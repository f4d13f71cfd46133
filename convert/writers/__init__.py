"""Checkpoints on disk, written piece by piece and complete only under their final name."""
