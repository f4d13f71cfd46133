"""Training: the state, the step that is compiled, and the loop around it."""
