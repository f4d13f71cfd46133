"""Text from a checkpoint: `jaxneox generate`."""
