"""From a client's hands into the queue: who injects, the service that takes it, and writing it oneself."""
