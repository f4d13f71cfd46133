"""Readers of foreign files as lazy numpy arrays. Nothing that a file names is ever run."""
