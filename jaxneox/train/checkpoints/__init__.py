"""Resuming a run and saving it, in a folder that it holds alone."""
