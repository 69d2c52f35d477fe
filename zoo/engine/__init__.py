"""Training and evaluation: one loop, from a recipe to a deployed network."""
