"""The loop around the step, and what is done between steps."""
