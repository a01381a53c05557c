"""A small HTTP server on several sockets: a thread for each connection, one request each, everything bounded.

The parsing is that of the standard library's http.server. Nothing that a client does holds up another: connections are
few and live for seconds, and one more than there is room for is closed.
"""

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from pyqmail.look.web import Request, Response, Way

CONNECTIONS_MAX = 32
SILENCE_S, CONNECTION_S = 10.0, 30.0  # for the next bytes, and for all of it
FORM_MAX, FIELDS_MAX = 8192, 50
BACKLOG = 64
# On every answer, unless it says otherwise: no script, nothing from elsewhere, in nobody's frame, kept by no cache.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Answer = Callable[[Request], Response]


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket, and how its clients come."""

    sock: socket.socket
    way: Way


class Server:
    """Serves until the process ends. ``context`` gives what is for a client that comes by TLS."""

    def __init__(
        self, listening: Sequence[Listening], context: Callable[[], ssl.SSLContext] | None, answer: Answer
    ) -> None:
        self._listening = listening
        self._context = context
        self._answer = answer
        self._open: dict[socket.socket, float] = {}  # until when each connection may live
        self._lock = threading.Lock()

    def run(self) -> None:
        """Accept for ever."""
        with selectors.DefaultSelector() as selector:
            for each in self._listening:
                each.sock.setblocking(False)
                selector.register(each.sock, selectors.EVENT_READ, each)
            while True:
                for key, _ in selector.select(1.0):
                    self._accept(key.data)
                self._hang_up()

    def _accept(self, listening: Listening) -> None:
        try:
            sock, address = listening.sock.accept()
        except OSError:
            return
        with self._lock:
            full = len(self._open) >= CONNECTIONS_MAX
            if not full:
                self._open[sock] = time.monotonic() + CONNECTION_S
        if full:
            sock.close()
            return
        peer = str(address[0]) if listening.way is not Way.LOCAL else ""
        context = self._context() if listening.way is Way.TLS and self._context else None
        threading.Thread(target=self._serve, args=(sock, listening.way, peer, context), daemon=True).start()

    def _hang_up(self) -> None:
        with self._lock:
            late = [sock for sock, until in self._open.items() if time.monotonic() > until]
        for sock in late:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS would want to say goodbye first
            except OSError:
                continue  # it has just ended by itself

    def _serve(self, sock: socket.socket, way: Way, peer: str, context: ssl.SSLContext | None) -> None:
        stream = sock
        try:
            sock.settimeout(SILENCE_S)
            if context is not None:
                stream = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open[stream] = self._open.pop(sock)
                stream.do_handshake()
            _Handler(stream, way, peer, self._answer)
        except OSError:
            return  # the client is gone, or too slow
        finally:
            with self._lock:
                self._open.pop(stream, None)
            stream.close()


class _Handler(BaseHTTPRequestHandler):
    """One request of one client."""

    server_version, sys_version = "qmail-metrics", ""

    def __init__(self, sock: socket.socket, way: Way, peer: str, answer: Answer) -> None:
        self._way = way
        self._peer = peer
        self._answer = answer
        super().__init__(sock, (peer, 0), None)  # type: ignore[arg-type]  # no server object is asked for anything

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        """Requests are not logged."""

    def do_GET(self) -> None:
        """A page."""
        self._reply({})

    def do_HEAD(self) -> None:
        """The same without its body."""
        self._reply({})

    def do_POST(self) -> None:
        """A form."""
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not length.isdigit() or int(length) > FORM_MAX or kind != "application/x-www-form-urlencoded":
            self._send(Response(400, b"that is no form of this page\n"))
            return
        try:
            self._reply(_pairs(self.rfile.read(int(length)).decode("ascii")))
        except ValueError:
            self._send(Response(400, b"that is no form of this page\n"))

    def _reply(self, form: dict[str, str]) -> None:
        try:
            target = urlsplit(self.path)
            query = _pairs(target.query)
        except ValueError:
            self._send(Response(400, b"no such address\n"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        method = "GET" if self.command == "HEAD" else self.command
        self._send(self._answer(Request(method, target.path, query, form, headers, self._way, self._peer)))

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        fields = {"Content-Type": response.content_type, "Content-Length": str(len(response.body)), **HEADERS}
        for name, value in {**fields, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


def _pairs(text: str) -> dict[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX))
