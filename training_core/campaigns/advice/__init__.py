"""Advice on runs: what to configure, whether it can run here, what went wrong, and what mends that."""
