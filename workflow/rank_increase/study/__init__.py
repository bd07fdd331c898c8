"""A study as a whole: its configuration, digests, plan and status."""
