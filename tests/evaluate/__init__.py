"""Tests of jaxneox.evaluate."""
