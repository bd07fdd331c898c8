"""Datasets: where they come from, how they are packed, and their batches."""
