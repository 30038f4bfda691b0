"""What one call does before and while the model is rewritten."""
