"""`python -m jaxneox.data`: a module for each command, with `add_parser` and `run`."""
