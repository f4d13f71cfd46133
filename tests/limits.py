"""How long a test waits for another process."""

PATIENCE = 600
"""Seconds: it ends a hang. On a loaded machine a process alone may take a minute to start."""
