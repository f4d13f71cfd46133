"""Hugging Face models: how config.json and our configurations correspond."""
