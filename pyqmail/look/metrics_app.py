"""What qmail-metrics answers to which request."""

import ipaddress
from hmac import compare_digest

from pyqmail.look.board import Board
from pyqmail.look.exposition import BoardCollector, exposition
from pyqmail.look.web import Request, Response, Way


class MetricsApp:
    """``names`` are those by which clients may call this host in clear; ``token`` is what they show by TLS.

    In clear another name is refused: a page of a stranger could give his own name our address, and read what is here
    with the browser of somebody who may (DNS rebinding).
    """

    def __init__(self, board: Board, names: frozenset[str], token: str) -> None:
        self._collector = BoardCollector(board)
        self._names = names
        self._token = token

    def __call__(self, request: Request) -> Response:
        """The answer."""
        if request.way is Way.CLEAR and not is_own(request.headers.get("host", ""), self._names):
            return Response(421, b"this is not a name of this host\n")
        if request.way is Way.TLS and not self._shows_token(request):
            return Response(401, b"show the token\n", headers={"WWW-Authenticate": "Bearer"})
        if request.method != "GET":
            return Response(405, b"this can only be read\n", headers={"Allow": "GET, HEAD"})
        if request.path == "/metrics":
            body, content_type = exposition(self._collector, request.headers.get("accept", ""))
            return Response(200, body, content_type)
        return Response(404, b"no such page; there is /metrics\n")

    def _shows_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and compare_digest(token.strip().encode(), self._token.encode())


def is_own(host: str, names: frozenset[str]) -> bool:
    """Whether the Host field ``host`` is an address, localhost or one of ``names`` (in lower case)."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() in names | {"localhost"}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
