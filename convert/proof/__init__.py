"""The proof that a conversion kept the function, and the certificate that reports it."""
