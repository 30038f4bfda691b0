"""A model as a typed graph: tensors, layers, costs."""
