"""Rules that map the tensors of other programs to ours, including the order of their numbers."""
