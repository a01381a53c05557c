"""Text of strangers for a terminal, a log or a reply."""

_TABLES = {mark: bytes(byte if 32 <= byte <= 126 else ord(mark) for byte in range(256)) for mark in (b"?", b"_", b"/")}


def printable(text: bytes, mark: bytes = b"?") -> bytes:
    """``text`` with ``mark`` (``?``, ``_`` or ``/``) for each byte but printable ASCII and blanks."""
    return text.translate(_TABLES[mark])
