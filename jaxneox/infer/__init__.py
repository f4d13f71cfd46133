"""What a checkpoint is asked: text that goes on, and how likely text is."""
