"""Properties of a model's inputs that follow from its graph."""
