"""Pages that people read, made from tables and claims."""
