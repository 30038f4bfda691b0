"""Weights and activations in whole numbers."""
