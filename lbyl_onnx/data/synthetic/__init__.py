"""Samples that are made."""
