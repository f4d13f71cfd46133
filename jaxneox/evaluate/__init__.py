"""How good a checkpoint is: `python -m jaxneox.evaluate`."""
