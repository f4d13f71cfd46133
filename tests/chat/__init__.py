"""Tests of `jaxneox chat`."""
