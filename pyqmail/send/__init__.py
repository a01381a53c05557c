"""The parts of qmail-send, joined to descriptors by programs/qmail_send.py."""
