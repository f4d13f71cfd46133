"""Mamba layers."""
