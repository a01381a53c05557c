"""The connection that waits for the next delivery: for whom, and until when."""

import os
import socket
import time
from collections.abc import Iterator
from typing import cast

import pytest

from pyqmail.protocol.sasl_client import Login
from pyqmail.remote.connection import Connection, Place
from pyqmail.remote.controls import Controls
from pyqmail.remote.kept import Keeping
from pyqmail.remote.security import Level, Security, Target
from pyqmail.stream.stream import Secured

PACKED = b"\x7f\0\0\1"
PLACE = Place(PACKED, 25, b"mx.test")
TARGET: Target = (b"a.test", None)


class Held:
    """A connection whose peer is the other end of a socket pair; ``said`` has how it ended."""

    secured: Secured | None

    def __init__(self) -> None:
        self._socket, self.peer_end = socket.socketpair()
        self.place, self.secured = PLACE, Secured("TLSv1.3", "x", 256)
        self.usable = True
        self.said = ""

    def end(self) -> None:
        self._socket.close()
        self.peer_end.close()

    def reusable(self) -> bool:
        return self.usable

    def fileno(self) -> int:
        return self._socket.fileno()

    def quit(self) -> None:
        self.said += "quit"

    def close(self) -> None:
        self.said += "close"


class Stay:
    """Control files that let a connection wait so many seconds."""

    def __init__(self, reuse_s: float) -> None:
        self.reuse_s = reuse_s


def fits(place: Place) -> bool:
    return place == PLACE


@pytest.fixture
def connection() -> Iterator[Held]:
    held = Held()
    yield held
    held.end()


def keep(connection: Held, reuse_s: float = 60.0, target: Target = TARGET) -> tuple[Keeping, Controls]:
    keeping, controls = Keeping(), cast(Controls, Stay(reuse_s))
    keeping.keep(cast(Connection, connection), target, controls)
    return keeping, controls


def test_the_next_delivery_to_the_same_place_has_it_once(connection: Held) -> None:
    keeping, controls = keep(connection)
    assert keeping.take(TARGET, controls, fits) is cast(Connection, connection)
    assert keeping.take(TARGET, controls, fits) is None
    assert connection.said == ""


def test_a_delivery_to_another_place_leaves_it_where_it_is(connection: Held) -> None:
    keeping, controls = keep(connection)
    assert keeping.take((b"b.test", None), controls, fits) is None
    assert keeping.take(TARGET, controls, fits) is not None


def test_one_that_is_not_secured_as_asked_for_is_left_where_it_is(connection: Held) -> None:
    keeping, controls = keep(connection)
    assert keeping.take(TARGET, controls, lambda place: False) is None
    assert keeping.take((b"a.test", b"*"), controls, fits) is None
    assert keeping.take(TARGET, controls, fits) is not None


def test_control_files_that_were_read_anew_have_not_made_it(connection: Held) -> None:
    keeping, _ = keep(connection)
    assert keeping.take(TARGET, cast(Controls, Stay(60.0)), fits) is None


def test_one_that_the_peer_has_ended_is_closed_without_a_word(connection: Held) -> None:
    keeping, controls = keep(connection)
    connection.usable = False
    assert keeping.take(TARGET, controls, fits) is None
    assert connection.said == "close"
    assert keeping.release() is None


@pytest.mark.parametrize(
    ("place", "same_controls", "expected"),
    [
        pytest.param(PLACE, True, True, id="the same place"),
        pytest.param(Place(b"\x7f\0\0\2", 25, b"mx.test"), True, False, id="another address"),
        pytest.param(Place(PACKED, 26, b"mx.test"), True, False, id="another port"),
        pytest.param(Place(PACKED, 25, b"mx.test", lmtp=True), True, False, id="LMTP"),
        pytest.param(Place(PACKED, 25, b"mx2.test"), True, False, id="another name under TLS"),
        pytest.param(Place(PACKED, 25, b"mx.test", Security(Level.ENCRYPT)), True, False, id="secured otherwise"),
        pytest.param(Place(PACKED, 25, b"mx.test", login=Login(b"joe", b"secret")), True, False, id="logged in"),
        pytest.param(Place(PACKED, 25, b"mx.test", source="192.0.2.1"), True, False, id="from another address"),
        pytest.param(Place(PACKED, 25, b"mx.test", helo=b"b.test"), True, False, id="by another name of ours"),
        pytest.param(Place(PACKED, 25, b"mx.test", socket=b"/run/x"), True, False, id="a socket"),
        pytest.param(PLACE, False, False, id="control files read anew"),
    ],
)
def test_where_it_leads_to(connection: Held, place: Place, same_controls: bool, expected: bool) -> None:
    keeping, controls = keep(connection)
    kept = keeping.release()
    assert kept is not None
    other = controls if same_controls else cast(Controls, Stay(60.0))
    assert kept.leads_to(place, other) is expected
    assert keeping.release() is None


def test_in_clear_the_name_of_a_host_does_not_matter(connection: Held) -> None:
    connection.secured = None
    keeping, controls = keep(connection)
    kept = keeping.release()
    assert kept is not None and kept.leads_to(Place(PACKED, 25, b"mx2.test"), controls)
    assert not kept.leads_to(Place(PACKED, 25, b"mx.test", Security(Level.ENCRYPT)), controls)


def test_work_ends_the_wait_and_the_connection_stays(connection: Held) -> None:
    keeping, controls = keep(connection)
    work, order = os.pipe()
    os.write(order, b"x")
    keeping.wait(work)
    assert keeping.take(TARGET, controls, fits) is not None
    os.close(work)
    os.close(order)


@pytest.mark.parametrize("why", ["its time is over", "the peer has closed it"])
def test_the_wait_ends_with_a_goodbye_when(connection: Held, why: str) -> None:
    keeping, _ = keep(connection, 0.0 if why == "its time is over" else 60.0)
    if why == "the peer has closed it":
        connection.peer_end.close()
    work, order = os.pipe()
    began = time.monotonic()
    keeping.wait(work)
    assert time.monotonic() - began < 30
    assert connection.said == "quit"
    assert keeping.release() is None
    os.close(work)
    os.close(order)


def test_nothing_kept_is_nothing_to_wait_for_or_to_close() -> None:
    work, order = os.pipe()
    keeping = Keeping()
    keeping.wait(work)
    keeping.close()
    os.close(work)
    os.close(order)
