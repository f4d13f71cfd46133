"""That a conversion kept the function: the proof, and the certificate that tells of it."""
