"""The toy model, its dynamics, and the paper's predictions."""
