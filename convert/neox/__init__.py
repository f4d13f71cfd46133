"""GPT-NeoX: how k ranks become one function, and how one function becomes k ranks."""
