"""Measures how good a checkpoint is: `jaxneox evaluate`."""
