"""Accounts of a database, compiled to the files that route mail here (qmail-accounts(8))."""
