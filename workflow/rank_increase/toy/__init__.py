"""The toy model, its dynamics, and what the paper predicts of it."""
