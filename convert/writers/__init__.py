"""Writers of checkpoints, part by part; a checkpoint gets its final name only when complete."""
