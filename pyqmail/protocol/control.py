"""What qmail-q and a running qmail-send say to each other: one JSON object a line, ended by a newline.

    request      {"do": "retry", "ids": [457], "domain": "", "what": ""}
    answers      {"ids": {"457": "done"}, "trouble": ""}                 to an order
                 {"times": [["remote", 457, 1700000000], ...]}           to "state", as many as it takes, then
                 {"held": [...], "endings": [...], "domains": [...], "delivering": [["local", 457]]}
                 {"metrics": "# HELP ..."}                               to "metrics", in Prometheus' text format

``ids`` null with "retry" means everything. Text is ASCII, other bytes are JSON escapes of surrogates as in PEP 383.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ORDERS = ("retry", "hold", "release", "delete", "bounce")
TAKE, MOVED = "take", "moved"  # of who moves messages to another node; what it has taken is given back when it hangs up
STATE = "state"
METRICS = "metrics"
REQUEST_MAX = 300_000  # bytes of a request, the newline included
IDS_MAX = 10_000  # messages in one request
NUMBER_MAX = 1 << 63
TEXT_MAX = 1003  # an address is no longer


class BadRequest(Exception):
    """The line is no request; the text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One order, or the question for the state."""

    do: str
    ids: tuple[int, ...] | None = ()
    domain: bytes = b""
    what: str = ""


def format_request(request: Request) -> bytes:
    """The line of ``request``."""
    ids = None if request.ids is None else list(request.ids)
    domain = request.domain.decode("utf-8", "surrogateescape")
    return _line({"do": request.do, "ids": ids, "domain": domain, "what": request.what})


def parse_request(line: bytes) -> Request:
    """The request in ``line``. Raises BadRequest."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("no JSON object") from None
    if not isinstance(value, dict):
        raise BadRequest("no JSON object")
    do, ids, domain, what = (
        value.get(key, default) for key, default in (("do", ""), ("ids", []), ("domain", ""), ("what", ""))
    )
    if do not in (*ORDERS, TAKE, MOVED, STATE, METRICS):
        raise BadRequest("unknown order")
    if not _text(domain) or not _text(what):
        raise BadRequest("domain and what must be short strings without control characters")
    if ids is None and do == "retry":
        return Request(do, None, what=what)
    if not isinstance(ids, list) or len(ids) > IDS_MAX or not all(_number(number) for number in ids):
        raise BadRequest("ids must be a list of message numbers")
    try:
        return Request(do, tuple(ids), domain.encode("utf-8", "surrogateescape").lower(), what)
    except UnicodeEncodeError:
        raise BadRequest("domain holds no bytes") from None


def _number(value: object) -> bool:
    return type(value) is int and 0 < value < NUMBER_MAX


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_MAX and not any(ord(char) < 32 for char in value)


def format_answer(ids: Mapping[int, str], trouble: str) -> bytes:
    """The answer to an order."""
    return _line({"ids": {str(number): state for number, state in ids.items()}, "trouble": trouble})


def format_times(times: Iterable[tuple[str, int, int]]) -> bytes:
    """A part of the state: channel, number and the second of the next attempt."""
    return _line({"times": list(times)})


def format_rest(
    held: Iterable[int], endings: Iterable[int], domains: Iterable[bytes], delivering: Iterable[tuple[str, int]]
) -> bytes:
    """The last line of the state."""
    names = [name.decode("utf-8", "surrogateescape") for name in domains]
    return _line({"held": list(held), "endings": list(endings), "domains": names, "delivering": list(delivering)})


def format_metrics(text: bytes) -> bytes:
    """The counters of qmail-send, as control/metricsfile gets them."""
    return _line({"metrics": text.decode("ascii")})


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
