"""What a compiled program's text says: what it sends, computes and moves."""
