"""Attacks by somebody else on the machine, and what dies by itself."""
