"""What a run shows: figures, progress, plots, and text."""
