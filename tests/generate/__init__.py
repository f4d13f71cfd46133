"""Tests of `python -m jaxneox.generate`."""
