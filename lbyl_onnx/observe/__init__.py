"""Measure the moments of a model's tensors by running it."""
