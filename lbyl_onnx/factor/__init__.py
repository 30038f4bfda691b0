"""Layers as the product of two of lower rank."""
