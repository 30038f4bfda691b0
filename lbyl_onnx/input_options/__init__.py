"""How a user says what the inputs of a model are."""
