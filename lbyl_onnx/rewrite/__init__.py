"""Write the compressed model: weights, shapes, files."""
