"""What a model is fed: synthetic samples, arrays, image files."""
