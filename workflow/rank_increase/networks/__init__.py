"""Models, chosen by name, and the attention that they share."""
