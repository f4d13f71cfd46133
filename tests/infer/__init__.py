"""Tests of jaxneox.infer."""
