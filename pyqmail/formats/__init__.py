"""Bytes in, values out: no descriptors, no clock."""
