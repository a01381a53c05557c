"""One question to rspamd by HTTP, and what its answer does to a message (rspamd.com/doc, "Rspamd protocol").

The message is a descriptor of a file, the answer JSON: ``action``, ``subject``, ``messages`` and ``milter`` with the
fields to add and to remove. HTTP/1.0, so that an answer ends with its connection.
"""

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence

from pyqmail.formats.header import field_name
from pyqmail.system.files import CHUNK

ANSWER_S = 60.0  # for the question, the check and its answer together
ANSWER_MAX = 1 << 20  # bytes of an answer
ADDED_MAX = 65536  # bytes of fields that an answer may add
HEADER_MAX = 1 << 20  # bytes of a header in which fields are removed
TEXT_MAX = 200  # bytes of a refusal
PORT = 11333
NAME = re.compile(r"[!-9;-~]{1,76}")


class NoAnswer(Exception):
    """Nobody has answered in time, or what has come is no answer."""


class Action:
    """What becomes of a message. ``refusal`` is D or Z and a text, empty where it may pass."""

    def __init__(self, refusal: bytes, added: bytes = b"", removed: Mapping[bytes, int] | None = None) -> None:
        self.refusal = refusal
        self.added = added  # whole fields, to stand before the message
        self.removed = dict(removed or {})  # lower-case name, and which of that name: 0 for all


def connect(where: str, until: float) -> socket.socket:
    """A connection to ``/path``, ``host``, ``host:port`` or ``[address]:port``. Raises OSError."""
    if where.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.1, until - time.monotonic()))
            sock.connect(where)
        except OSError:
            sock.close()
            raise
        return sock
    host, colon, port = where.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not port.isdigit():
        host, port = where.removeprefix("http://").rstrip("/"), str(PORT)
    return socket.create_connection((host.strip("[]"), int(port)), max(0.1, until - time.monotonic()))


def ask(where: str, fields: Sequence[tuple[bytes, bytes]], pieces: Iterator[bytes], size: int) -> Action:
    """The action for a message of ``size`` bytes; ``fields`` are those of the request. Raises NoAnswer."""
    until = time.monotonic() + ANSWER_S
    lines = [b"POST /checkv2 HTTP/1.0", *(b"%b: %b" % (name, clean(value)) for name, value in fields)]
    try:
        with connect(where, until) as sock:
            sock.sendall(b"\r\n".join([*lines, b"Content-Length: %d" % size, b"", b""]))
            for piece in pieces:
                sock.settimeout(max(0.1, until - time.monotonic()))
                sock.sendall(piece)
            return parse_answer(read_answer(sock, until))
    except (OSError, ValueError) as error:
        raise NoAnswer(str(error) or "no answer") from error


def read_answer(sock: socket.socket, until: float) -> bytes:
    """All of an answer. Raises NoAnswer and OSError."""
    answer = b""
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise NoAnswer("it takes too long")
        sock.settimeout(left_s)
        data = sock.recv(CHUNK)
        if not data:
            return answer
        answer += data
        if len(answer) > ANSWER_MAX:
            raise NoAnswer("its answer has no end")


def parse_answer(answer: bytes) -> Action:
    """What an HTTP answer says. Raises NoAnswer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
        raise NoAnswer("it answers " + clean(head[:100]).decode("ascii", "replace"))
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise NoAnswer("its answer is no JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("action"), str):
        raise NoAnswer("its answer has no action")
    messages = found.get("messages")
    text = messages.get("smtp_message") if isinstance(messages, dict) else None
    shown = clean(text.encode("ascii", "replace"))[:TEXT_MAX] if isinstance(text, str) else b""
    action = found["action"]
    if action in ("reject", "discard", "quarantine"):
        return Action(b"D" + (shown or b"spam message rejected") + b" (#5.7.1)")
    if action == "soft reject":
        return Action(b"Z" + (shown or b"try again later") + b" (#4.7.1)")
    added, removed = header_changes(found.get("milter"))
    if action == "add header":
        added = b"X-Spam: Yes\n" + added
    subject = found.get("subject")
    if action == "rewrite subject" and isinstance(subject, str):
        added += field("Subject", subject)
        removed[b"subject"] = 0
    return Action(b"", added[:0] if len(added) > ADDED_MAX else added, removed)


def header_changes(milter: object) -> tuple[bytes, dict[bytes, int]]:
    """The fields to add, and those to remove; what is malformed is left out."""
    added = b""
    removed: dict[bytes, int] = {}
    if not isinstance(milter, dict):
        return added, removed
    adding, removing = milter.get("add_headers"), milter.get("remove_headers")
    for name, given in adding.items() if isinstance(adding, dict) else ():
        for one in given if isinstance(given, list) else [given]:
            value = one.get("value") if isinstance(one, dict) else one
            if isinstance(value, str):
                added += field(name, value)
    for name, which in removing.items() if isinstance(removing, dict) else ():
        if NAME.fullmatch(name) and isinstance(which, int) and which >= 0:
            removed[name.lower().encode("ascii")] = which
    return added, removed


def field(name: str, value: str) -> bytes:
    """A whole header field, folded where the value has line ends; nothing for a name that is none."""
    if not NAME.fullmatch(name):
        return b""
    lines = [line.strip(" \t\0") for line in re.split(r"[\r\n]+", value)]
    text = "\n\t".join(line for line in lines if line).replace("\0", "")
    return f"{name}: {text}\n".encode("utf-8", "replace")


def clean(value: bytes) -> bytes:
    """``value`` on one line."""
    return bytes(byte if 32 <= byte < 127 else 0x5F for byte in value)


def without(pieces: Iterator[bytes], removed: Mapping[bytes, int]) -> Iterator[bytes]:
    """A message without the ``removed`` fields; one whose header is endless is left as it is."""
    if not removed:
        yield from pieces
        return
    head = b""
    for piece in pieces:
        head += piece
        end = 0 if head.startswith(b"\n") else head.find(b"\n\n") + 1
        if end or head.startswith(b"\n") or len(head) > HEADER_MAX:
            yield from kept(head[:end], removed)
            yield head[end:]
            break
    else:
        yield from kept(head, removed)
    yield from pieces


def kept(header: bytes, removed: Mapping[bytes, int]) -> Iterator[bytes]:
    """The lines of ``header`` that stay."""
    seen: dict[bytes, int] = {}
    drops = False
    for line in re.findall(rb"[^\n]*\n|[^\n]+", header):
        if line[:1] not in (b" ", b"\t"):
            name = (field_name(line) or b"").lower()
            seen[name] = seen.get(name, 0) + 1
            drops = name in removed and removed[name] in (0, seen[name])
        if not drops:
            yield line
