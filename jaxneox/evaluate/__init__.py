"""How good a checkpoint is: `jaxneox evaluate`."""
