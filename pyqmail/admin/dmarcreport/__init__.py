"""Sending DMARC aggregate reports to the domains that ask for them (qmail-dmarcreport(8))."""
