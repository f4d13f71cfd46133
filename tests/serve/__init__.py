"""The endpoint: every request answered as it would be alone, and every bad one with a reason."""
