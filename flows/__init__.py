"""Prefect flows and the command line: order, branching and names; the work is done by tasks and the core."""
