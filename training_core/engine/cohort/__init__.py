"""Training many nets of one architecture together: their parameters stacked, one program for all, each its own rows."""
