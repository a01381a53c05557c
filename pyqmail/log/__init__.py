"""The lines of the logs as values, written and read in one place, and where they go (qmail-log(5))."""
