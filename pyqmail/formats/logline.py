"""Text made safe for one line of qmail-send's log: nothing a stranger writes can forge another line (qmail-log(5))."""

_SAFE = bytes(
    ord("/") if byte == 10 else ord("_") if byte < 33 or byte > 126 or byte == ord("%") else byte for byte in range(256)
)


def safe(text: bytes) -> bytes:
    """``text`` with newlines as ``/`` and blanks, control bytes, 8-bit bytes and ``%`` as ``_``."""
    return text.translate(_SAFE)


def safe_words(text: str) -> bytes:
    """``text`` for a log line, its blanks kept."""
    return b" ".join(safe(word.encode(errors="replace")) for word in text.split(" "))
