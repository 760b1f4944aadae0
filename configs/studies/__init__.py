"""Studies: several experiments and seeds, as plain data."""
