"""Versioned data sets on disk: immutable parts of rows, versions that list them, and reading both."""
