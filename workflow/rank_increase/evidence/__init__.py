"""Claims as numbers with verdicts."""
