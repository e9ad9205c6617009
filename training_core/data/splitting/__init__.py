"""Which rows train, validate and test: drawn splits, folds, and the bags of an ensemble."""
