"""The command line's front: what all commands share between a user's words and the work."""
