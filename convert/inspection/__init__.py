"""Inspection of checkpoints: a module for each kind collects `Facts`, and `screen` shows them."""
