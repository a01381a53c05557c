"""Text of strangers for a terminal, a log or a reply."""

_TABLES = {mark: bytes(byte if 32 <= byte <= 126 else ord(mark) for byte in range(256)) for mark in (b"?", b"_", b"/")}


def printable(text: bytes, mark: bytes = b"?") -> bytes:
    """``text`` with ``mark`` (``?``, ``_`` or ``/``) for each byte but printable ASCII and blanks."""
    return text.translate(_TABLES[mark])


def visible(data: bytes) -> str:
    """``data`` for a terminal, with ``\\xHH`` for whatever it would obey or could not show."""
    return "".join(chr(byte) if 32 <= byte <= 126 else f"\\x{byte:02x}" for byte in data)
