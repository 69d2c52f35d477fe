"""The papers' tables: their figures as data (tables) and beside ours, cell by cell (reproduce)."""
