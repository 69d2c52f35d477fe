"""The papers' tables (`zoo.published`) beside ours, cell by cell (reproduce)."""
