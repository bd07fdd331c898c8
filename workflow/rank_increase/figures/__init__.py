"""Figures: their style and panels."""
