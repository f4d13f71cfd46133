"""Which tensor of another program is which of ours, and in what order its numbers lie."""
