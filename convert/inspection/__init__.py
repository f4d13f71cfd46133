"""What a checkpoint is: a module for each kind makes `Facts`, and `screen` shows them."""
