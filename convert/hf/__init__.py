"""What Hugging Face can say of a model of ours, and what its words mean here."""
