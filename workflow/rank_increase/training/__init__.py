"""Training of networks, with checkpoints and snapshots."""
