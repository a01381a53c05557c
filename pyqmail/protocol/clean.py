"""Requests to qmail-clean: a word and a message number, NUL-terminated; one answer byte each (qmail-clean(8)).

The answers: + done, ! could not, x no such request.
"""

FOOP = "foop"  # remove intd/N and mess/S/N
TODO = "todo"  # remove intd/N and todo/N
FACT = "fact"  # remove the facts of N, which is not in todo/ any more; another qmail answers x
DONE = b"+"
FAILED = b"!"
MALFORMED = b"x"
REQUEST_MIN = 7  # bytes, NUL included
REQUEST_MAX = 100
_WORDS = {b"foop/": FOOP, b"todo/": TODO, b"fact/": FACT}


def format_request(word: str, number: int) -> bytes:
    """The request bytes, NUL included."""
    return b"%s/%d\0" % (word.encode(), number)


def parse_request(request: bytes) -> tuple[str, int] | None:
    """The word and the number of a request without its NUL; None for a malformed one, which gets a single ``x``."""
    if not REQUEST_MIN <= len(request) + 1 <= REQUEST_MAX:
        return None
    word, digits = request[:5], request[5:]
    if not digits.isdigit() or word not in _WORDS:
        return None
    return _WORDS[word], int(digits)


class RequestReader:
    """Cuts a stream into requests; of an overlong one only the fact is kept, never its bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The requests that ``data`` completes, each without its NUL."""
        parts = (self._rest + data).split(b"\0")
        self._rest = parts.pop()[:REQUEST_MAX]
        return parts
