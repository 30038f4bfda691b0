"""Files of samples: which there are, of which kind, and readers of those that are no arrays."""
