"""jaxneox's own checkpoints as the source or the target of a conversion."""
