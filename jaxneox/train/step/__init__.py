"""The compiled step: its state, its batches, and what it costs."""
