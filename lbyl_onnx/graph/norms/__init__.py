"""Normalisations, as one node or in single operators."""
