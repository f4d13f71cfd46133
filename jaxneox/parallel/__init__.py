"""Meshes of devices, and which of their axes splits what."""
