"""Convert checkpoints of other programs to and from jaxneox, and prove that the function stays."""
