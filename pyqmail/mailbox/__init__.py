"""Maildir and mbox."""
