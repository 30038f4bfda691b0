"""Fewer channels that are mixtures of all."""
