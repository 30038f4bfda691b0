"""A model in whole numbers of eight bits."""
