"""Channel groups: which channels move together, and what lies between layers."""
