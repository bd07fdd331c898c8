"""Sources of datasets, chosen by name."""
