"""Figures of a mail server for people: from its logs, its queue and its counters."""
