"""What `--dry-run` prints, from shapes and a compiled program."""
