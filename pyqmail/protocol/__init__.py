"""Sans-IO protocol machines."""
