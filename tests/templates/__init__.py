"""Tests of `jaxneox.templates`."""
