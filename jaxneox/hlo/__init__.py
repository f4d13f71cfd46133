"""Reads a compiled program's text: what it sends, computes and moves."""
