"""What the papers printed, as data: their tables (tables) and the YAML files beside it."""
