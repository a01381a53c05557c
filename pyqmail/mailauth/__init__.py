"""Who sent a message: SPF, DKIM, DMARC and ARC, and the lines that say so. Cores over a resolver that is handed in."""
