"""Who may send, who receives, and where it goes."""
