"""Local delivery: who gets a message, what is said about it, and doing that (qmail-local(8), qmail-getpw(8))."""
