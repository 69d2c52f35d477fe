"""The papers' tables: published figures as data (tables), what a network costs (cost), both compared (reproduce)."""
