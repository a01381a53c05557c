"""Counters and newcomers that several machines share, in Redis or Valkey (control/statestore).

The windows are those of `limits`, whose scripts count in one step on the server; every key expires there. What goes
wrong is Away, whatever the libraries raise: their errors are no OSErrors.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from valkey.backoff import NoBackoff
from valkey.exceptions import ValkeyError
from valkey.retry import Retry

from pyqmail.formats.logline import safe_words
from pyqmail.protocol.state import NUMBER_MAX, Rule
from pyqmail.state.firsts import DIGEST_BYTES
from pyqmail.state.local import Local, Store
from pyqmail.state.windows import Count, Over, counter_name

MOST = NUMBER_MAX  # of a window that is only looked at
AGAIN_S = 10.0  # from an answer that was none until the server is asked again
ANSWER_S = 0.05  # for each question to the server
PREFIX = "pyqmail"
COUNTS_MAX = 100_000  # that are shown
SCHEMES = {"redis": "valkey", "rediss": "valkeys", "redis+unix": "valkey+unix"}  # as limits names its client
OPTIONS = frozenset(("ssl_ca_certs",))  # behind a ?

T = TypeVar("T")


class Away(Exception):
    """The server does not answer, or nonsense."""


class Window(RateLimitItemPerSecond):
    """A limit of `limits` whose name in the store says nothing of how much it allows."""

    def key_for(self, *identifiers: bytes | str | float) -> str:
        """The name of the counter alone."""
        return str(identifiers[0])


def parse_url(text: str) -> str:
    """The URL as `limits` wants it. Raises ValueError for what is none, without a word of it, as it may be secret."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in SCHEMES and OPTIONS.issuperset(parse_qs(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port
    except ValueError:
        known, port = False, None
    if not known or port == 0:
        raise ValueError("redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+unix:///PATH is wanted") from None
    return SCHEMES[parts.scheme] + text[len(parts.scheme) :]


class Shared:
    """A Store on the server at ``url``. Each method raises Away; a server that hangs is waited for ANSWER_S."""

    def __init__(self, url: str) -> None:
        retry = Retry(NoBackoff(), 0)
        options = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "retry": retry}
        if url.startswith("valkeys:"):  # the certificate is verified by default, but not whose it is
            options["ssl_check_hostname"] = True
        storage = RedisStorage(url, key_prefix=PREFIX, **options)  # type: ignore[arg-type]
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._storage = storage
        self._client = storage.storage

    def take(self, key: bytes, rules: Sequence[Rule]) -> Over | None:
        """As Store says; what several machines count at one moment may be one too many each."""
        with answered():
            items = [(Window(rule.most, rule.seconds), text(counter_name(key, rule)), rule) for rule in rules]
            for item, name, rule in items:
                if not self._limiter.test(item, name, cost=rule.amount):
                    free = self._limiter.get_window_stats(item, name).reset_time - time.time()
                    return Over(rule, max(1, int(free)))
            for item, name, rule in items:
                self._limiter.hit(item, name, cost=rule.amount)
        return None

    def left(self, key: bytes, wait_s: int, again_s: int, keep_s: int) -> int:
        """As Store says, by the clock of the server alone."""
        name = blake2b(key, digest_size=DIGEST_BYTES).hexdigest()
        new, known, again_s = f"{PREFIX}-new:{name}", f"{PREFIX}-known:{name}", max(wait_s, again_s)
        with answered():
            if self._client.expire(known, keep_s):
                return 0
            if self._client.set(new, b"", nx=True, ex=again_s):
                return wait_s
            left = int(self._client.ttl(new)) - again_s + wait_s
            if left <= 0:
                self._client.set(known, b"", ex=keep_s)
        return max(0, left)

    def counts(self) -> Iterator[Count]:
        """As Store says, COUNTS_MAX at most; nobody counts here what was refused."""
        for name in self._names():
            kind, seconds, key = name.split(" ", 2)
            with answered():
                stats = self._limiter.get_window_stats(Window(MOST, int(seconds)), name)
            yield Count(key.encode("latin-1"), kind.encode(), int(seconds), MOST - stats.remaining, 0)

    def reset(self, key: bytes) -> int:
        """As Store says."""
        names = [name for name in self._names() if name.split(" ", 2)[2] == text(key)]
        for name in names:
            with answered():
                self._limiter.clear(Window(MOST, int(name.split(" ", 2)[1])), name)
        return len(names)

    def _names(self) -> list[str]:
        """The names of the counters, of windows that run and of those before them."""
        found = set()
        with answered():
            for name in islice(self._client.scan_iter(match=PREFIX + ":{*", count=1000), 2 * COUNTS_MAX):
                found.add(name.decode("utf-8").partition("{")[2].rpartition("}")[0])
        return sorted(found)[:COUNTS_MAX]


@contextmanager
def answered() -> Iterator[None]:
    """Whatever is wrong with an answer is Away."""
    try:
        yield
    except (ValkeyError, OSError, ValueError, TypeError, LookupError) as error:
        raise Away(str(error)) from error


def text(name: bytes) -> str:
    """A name as the libraries have it; those of counters are ASCII."""
    return name.decode("latin-1")


class Preferred:
    """A Store that is shared, and while that is away one of this machine alone. ``say`` writes a line of the log."""

    def __init__(self, shared: Shared, local: Local, say: Callable[[bytes], None]) -> None:
        self._shared = shared
        self._local = local
        self._say = say
        self._until = 0.0  # when the shared one is asked again

    def take(self, key: bytes, rules: Sequence[Rule]) -> Over | None:
        """As Store says."""
        return self._ask(lambda store: store.take(key, rules))

    def left(self, key: bytes, wait_s: int, again_s: int, keep_s: int) -> int:
        """As Store says."""
        return self._ask(lambda store: store.left(key, wait_s, again_s, keep_s))

    def counts(self) -> Iterator[Count]:
        """As Store says."""
        return iter(self._ask(lambda store: list(store.counts())))

    def reset(self, key: bytes) -> int:
        """As Store says."""
        return self._ask(lambda store: store.reset(key))

    def _ask(self, question: Callable[[Store], T]) -> T:
        if time.monotonic() >= self._until:
            try:
                return question(self._shared)
            except Away as error:
                self._until = time.monotonic() + AGAIN_S
                self._say(b"warning: control/statestore: " + safe_words(str(error)) + b"; this machine counts alone")
        return question(self._local)
