"""The status page's requests: the page, logging in with the token, and orders that are asked for once more."""

import time
from collections.abc import Callable

from pyqmail.look.apart import Apart, Lost, Slow
from pyqmail.look.board import Board
from pyqmail.look.queue_look import QueueLook
from pyqmail.look.status_figures import read_figures
from pyqmail.look.status_page import ORDERS, StatusPage, row_cells
from pyqmail.look.web import HTML, Request, Response, Way
from pyqmail.look.web_login import COOKIE, SESSION_S, Login, Logins, from_own_page
from pyqmail.look.web_page import POLICY, document, hidden, text

ORDER_S = 60.0
NUMBER_DIGITS = 19
CSP = {"Content-Security-Policy": POLICY}
FORBIDDEN = Response(403, b"this form is not of your page, or your session has ended: log in again\n")


class StatusApp:
    """``host`` is the title's; ``say`` writes a line to the log."""

    def __init__(self, host: str, board: Board, queue: Apart, logins: Logins, say: Callable[[str], None]) -> None:
        self._host = host
        self._board = board
        self._queue = queue
        self._look = QueueLook(queue)
        self._logins = logins
        self._say = say

    def __call__(self, request: Request) -> Response | None:
        """The answer; None for what is not of this page."""
        if request.method == "GET":
            pages = {"/": self._page, "/login": self._login_page}
        else:
            acts = {"/confirm": self._confirm, "/order": self._order}
            if request.path in acts:
                return self._allowed(request, acts[request.path])
            pages = {"/login": self._log_in, "/logout": self._log_out}
        answer = pages.get(request.path)
        return answer(request) if answer is not None else None

    def _page(self, request: Request) -> Response:
        now = time.time()
        login = self._logins.of(request) if request.way is not Way.CLEAR else None
        full = request.way is not Way.CLEAR
        page = StatusPage(self._host, read_figures(self._board, now), self._look.state(), now, full=full)
        wanted, live = request.query.get("q", "")[:200], "live" in request.query
        secret = login.form_secret if login is not None else ""
        offered = self._logins.possible and full
        return Response(200, page.html(wanted, secret, live=live, login=offered), HTML, CSP)

    def _login_page(self, request: Request) -> Response:
        if request.way is Way.CLEAR or not self._logins.possible:
            return Response(404, b"nobody can log in here\n")
        field = '<input type="password" name="token" autocomplete="current-password" autofocus>'
        form = f'<form action="/login" method="post"><label>Token {field}</label> <button>Log in</button></form>'
        return _small(200, "Log in", form)

    def _log_in(self, request: Request) -> Response:
        if request.way is Way.CLEAR or not from_own_page(request):
            return FORBIDDEN
        if not self._logins.knows_token(request.form.get("token", "")):
            self._say(f"{request.peer or 'a client'}: wrong token")
            return _small(403, "Log in", 'That is not the token. <a href="/login">Again</a>')
        cookie = f"{COOKIE}={self._logins.begin()}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={SESSION_S:.0f}"
        return Response(303, b"", headers={"Location": "/", "Set-Cookie": cookie})

    def _log_out(self, request: Request) -> Response:
        if self._logins.form_of(request) is None:
            return FORBIDDEN
        self._logins.end(request)
        return Response(303, b"", headers={"Location": "/"})

    def _allowed(self, request: Request, act: Callable[[Request, Login, str, int], Response]) -> Response:
        """What ``act`` makes of an order, if the form is of a page of ours and says one."""
        login, wanted = self._logins.form_of(request), order_of(request)
        if login is None or request.way is Way.CLEAR:
            return FORBIDDEN
        return act(request, login, *wanted) if wanted is not None else Response(400, b"no such order\n")

    def _confirm(self, _request: Request, login: Login, order: str, number: int) -> Response:
        """Show what is about to be done, and ask."""
        row = next((row for row in self._look.state().rows if row.number == number), None)
        told = ", ".join(row_cells(row, full=True)[1:]) if row is not None else "it is not among those that were read"
        fields = hidden(secret=login.form_secret, id=str(number), order=order)
        warning = "<p>Its sender will hear nothing.</p>" if order == "delete" else ""
        question = f"<p>{text(order)} message {number}?</p><p>{text(told)}</p>{warning}"
        form = f'<form action="/order" method="post">{fields}<button>{text(order)} {number}</button></form>'
        return _small(200, f"{order} {number}", f'{question}{form} <a href="/">no</a>')

    def _order(self, request: Request, _login: Login, order: str, number: int) -> Response:
        """Have it done."""
        self._say(f"{request.peer or 'a client'}: {order} msg {number}")
        try:
            said = str(self._queue.ask([order, number], ORDER_S))
        except (Slow, Lost) as error:
            said = str(error)
        self._look.look_again()
        return _small(200, f"{order} {number}", f'<p>{text(order)} {number}: {text(said)}</p><a href="/">back</a>')


def order_of(request: Request) -> tuple[str, int] | None:
    """The order and the message of a form; None for what is none."""
    order, number = request.form.get("order", ""), request.form.get("id", "")
    if order not in ORDERS or not number.isascii() or not number.isdigit() or len(number) > NUMBER_DIGITS:
        return None
    return order, int(number)


def _small(status: int, title: str, body: str) -> Response:
    return Response(status, document(title, [f"<h1>{text(title)}</h1>", body]), HTML, CSP)
