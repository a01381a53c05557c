"""Bytes to and from a peer, in clear or under TLS, with a limit on each wait."""
