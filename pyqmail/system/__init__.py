"""What the kernel gives; no mail words."""
