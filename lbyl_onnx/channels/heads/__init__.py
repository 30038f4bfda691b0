"""Channels of heads: lines of which as many go, and products in which channels meet."""
