"""Passes for other tools; each imports its tool, which is not installed with this package."""
