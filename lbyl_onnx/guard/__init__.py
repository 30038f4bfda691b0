"""Bounds on time and memory, and processes that keep them; the standard library alone."""
