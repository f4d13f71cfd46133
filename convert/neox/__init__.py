"""What is particular to GPT-NeoX: how k ranks become one function, and one becomes k ranks."""
