"""What qmail-send hears of the supervisor, and tells qmail-rcptd."""

import socket
from collections.abc import Iterator

import pytest

from pyqmail.log.events import Event
from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import format_routing
from pyqmail.protocol.supervision import FD_VARIABLE, HERE, format_alert, format_feed
from pyqmail.send import routing_feed
from pyqmail.send.routing_feed import RoutingFeed, without_feed
from pyqmail.system.loop import Loop

ROUTING = Routing(b"here.test", frozenset((b"here.test",)), frozenset(), {b"v.test": b"joe"})


class Ends:
    """The feed, the supervisor's end of its socket, and the log."""

    def __init__(self) -> None:
        ours, self.supervisor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.supervisor.settimeout(20)
        self.lines: list[bytes] = []
        self.loop = Loop()
        self.feed = RoutingFeed({FD_VARIABLE: b"%d" % ours.detach()}, self.loop, self._say)

    def _say(self, event: Event) -> None:
        self.lines.append(event.format())

    def helper(self) -> socket.socket:
        """Our end of a new qmail-rcptd."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.supervisor, [format_feed(b"qmail-rcptd")], [theirs.fileno()])
        self.loop.run_once(20)
        ours.settimeout(20)
        return ours


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A feed whose qmail-send serves."""
    made = Ends()
    made.feed.serve(ROUTING)
    assert made.supervisor.recv(64) == HERE
    with made.supervisor:
        yield made
    made.loop.run_once(0)  # it hears that both are gone, and closes
    made.feed.publish(ROUTING)


def heard(sock: socket.socket, size: int) -> bytes:
    """The next ``size`` bytes."""
    data = b""
    while len(data) < size and (piece := sock.recv(65536)):
        data += piece
    return data


def test_the_maps_are_sent_each_time_and_to_each_helper(ends: Ends) -> None:
    record = format_routing(ROUTING)
    with ends.helper() as first:
        ends.feed.publish(ROUTING)
        assert heard(first, 2 * len(record)) == 2 * record
        new = Routing(b"new.test", frozenset(), frozenset(), {})
        ends.feed.publish(new)
        assert heard(first, len(format_routing(new))) == format_routing(new)
        with ends.helper() as second:  # another in its place
            assert heard(second, len(format_routing(new))) == format_routing(new)
            assert first.recv(1) == b""


def test_alerts_of_the_supervisor_are_logged_and_its_end_too(ends: Ends) -> None:
    ends.supervisor.send(format_alert(b"qmail-rcptd was killed by signal 9"))
    ends.loop.run_once(20)
    ends.supervisor.close()
    ends.loop.run_once(20)
    assert ends.lines == [
        b"alert: qmail-rcptd was killed by signal 9",
        b"alert: the supervisor of qmail-start is gone: helpers that end are not started again",
    ]
    ends.feed.publish(ROUTING)


def test_nobody_to_tell_is_no_trouble() -> None:
    for environ in ({}, {FD_VARIABLE: b"x"}, {FD_VARIABLE: b"99999"}):
        feed = RoutingFeed(environ, Loop(), lambda line: None)
        feed.serve(ROUTING)
        feed.publish(ROUTING)


def test_who_does_not_listen_is_given_up(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_feed, "PATIENCE_S", 1)
    with ends.helper() as helper:
        ends.feed.publish(Routing(b"x", frozenset((b"y" * 4000000,)), frozenset(), {}))  # more than the socket holds
        while helper.recv(1 << 20):
            pass


def test_the_variable_goes_no_further() -> None:
    assert without_feed({FD_VARIABLE: b"7", b"PATH": b"/bin"}) == {b"PATH": b"/bin"}
