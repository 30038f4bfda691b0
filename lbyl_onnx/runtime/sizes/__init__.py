"""The shapes at which a model runs."""
