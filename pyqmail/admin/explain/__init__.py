"""What would become of mail for an address, rule by rule, by the programs' own code (qmail-explain(8))."""
