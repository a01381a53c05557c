"""What qmail-metrics answers to which request, and to whom."""

import ipaddress

from pyqmail.look.board import Board
from pyqmail.look.exposition import BoardCollector, exposition
from pyqmail.look.status_app import StatusApp
from pyqmail.look.web import Request, Response, Way
from pyqmail.look.web_login import Logins


class MetricsApp:
    """``names`` are those by which clients may call this host in clear; ``logins`` has the token that they show by TLS.

    In clear another name is refused: a page of a stranger could give his own name our address, and read what is here
    with the browser of somebody who may (DNS rebinding).
    """

    def __init__(self, board: Board, status: StatusApp, names: frozenset[str], logins: Logins) -> None:
        self._collector = BoardCollector(board)
        self._status = status
        self._names = names
        self._logins = logins

    def __call__(self, request: Request) -> Response:
        """The answer."""
        if request.way is Way.CLEAR and not is_own(request.headers.get("host", ""), self._names):
            return Response(421, b"this is not a name of this host\n")
        if request.way is Way.TLS and request.path != "/login" and not self._may_see(request):
            if request.path == "/" and request.method == "GET":
                return Response(303, b"", headers={"Location": "/login"})
            return Response(401, b"show the token\n", headers={"WWW-Authenticate": "Bearer"})
        if request.path == "/metrics" and request.method == "GET":
            body, content_type = exposition(self._collector, request.headers.get("accept", ""))
            return Response(200, body, content_type)
        return self._status(request) or Response(404, b"no such page; there are / and /metrics\n")

    def _may_see(self, request: Request) -> bool:
        """Whether a client that came by TLS has shown the token, by now or before."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._logins.knows_token(token.strip())
        return self._logins.of(request) is not None


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
