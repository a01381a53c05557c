"""Who has shown the token to the status page: sessions in memory, each with a secret for its forms against CSRF."""

import secrets
import threading
import time
from dataclasses import dataclass
from hmac import compare_digest
from urllib.parse import urlsplit

from pyqmail.look.web import Request

COOKIE = "__Host-qmail"
SESSION_S = 8 * 3600.0
SESSIONS_MAX = 64  # of more the oldest ends


@dataclass(frozen=True, slots=True)
class Login:
    """One session. ``form_secret`` has to come back in each form."""

    form_secret: str
    until: float


class Logins:
    """All sessions; without ``token`` there are none."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._logins: dict[str, Login] = {}
        self._lock = threading.Lock()

    @property
    def possible(self) -> bool:
        """Whether there is a token to show."""
        return bool(self._token)

    def knows_token(self, shown: str) -> bool:
        """Whether ``shown`` is the token."""
        return self.possible and compare_digest(shown.encode("utf-8", "replace"), self._token)

    def begin(self) -> str:
        """A new session: the value of its cookie."""
        name = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._logins) >= SESSIONS_MAX:
                del self._logins[next(iter(self._logins))]
            self._logins[name] = Login(secrets.token_urlsafe(32), time.monotonic() + SESSION_S)
        return name

    def of(self, request: Request) -> Login | None:
        """The session of ``request``."""
        with self._lock:
            found = self._logins.get(request.cookies.get(COOKIE, ""))
        return found if found is not None and time.monotonic() < found.until else None

    def end(self, request: Request) -> None:
        """Forget the session of ``request``."""
        with self._lock:
            self._logins.pop(request.cookies.get(COOKIE, ""), None)

    def form_of(self, request: Request) -> Login | None:
        """The session whose own form this is; None for what another site has made a browser send."""
        login = self.of(request)
        if login is None or not from_own_page(request):
            return None
        shown = request.form.get("secret", "").encode("utf-8", "replace")
        return login if compare_digest(shown, login.form_secret.encode()) else None


def from_own_page(request: Request) -> bool:
    """Whether neither Sec-Fetch-Site nor Origin says that a page of another site sent this."""
    site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin")
    if site not in ("same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
