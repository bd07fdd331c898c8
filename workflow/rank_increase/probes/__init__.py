"""Measurements of trained networks."""
