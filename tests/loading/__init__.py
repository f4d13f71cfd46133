"""Tests of jaxneox.loading."""
