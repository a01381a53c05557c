"""pyqmail: the qmail mail transfer agent in Python."""
