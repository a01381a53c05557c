"""What qmail-remote is made of: its control files, and its connections to other hosts."""
