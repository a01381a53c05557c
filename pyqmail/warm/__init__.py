"""Worker pools: one fork serves many jobs."""
