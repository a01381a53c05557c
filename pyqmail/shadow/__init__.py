"""A second copy of each message, in PostgreSQL, before it is accepted (qmail-shadowd(8))."""
