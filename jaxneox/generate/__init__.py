"""Text from a checkpoint: `python -m jaxneox.generate`."""
