"""Our own domains in DNS, as a receiver of our mail and a sender to us see them (qmail-showctl(8), --check dns)."""
