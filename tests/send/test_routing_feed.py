"""What qmail-send tells qmail-rcptd."""

import socket

import pytest

from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import FD_VARIABLE, format_routing
from pyqmail.send import routing_feed
from pyqmail.send.routing_feed import RoutingFeed, without_feed

ROUTING = Routing(b"here.test", frozenset((b"here.test",)), frozenset(), {b"v.test": b"joe"})


def test_the_maps_are_sent_each_time() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        feed = RoutingFeed({FD_VARIABLE: b"%d" % ours.detach()})
        feed.publish(ROUTING)
        feed.publish(ROUTING)
        theirs.settimeout(20)
        expected = format_routing(ROUTING) * 2
        heard = b""
        while len(heard) < len(expected):
            heard += theirs.recv(65536)
        assert heard == expected


def test_nobody_to_tell_is_no_trouble() -> None:
    for environ in ({}, {FD_VARIABLE: b"x"}, {FD_VARIABLE: b"99999"}):
        RoutingFeed(environ).publish(ROUTING)
    ours, theirs = socket.socketpair()
    theirs.close()
    feed = RoutingFeed({FD_VARIABLE: b"%d" % ours.detach()})
    feed.publish(ROUTING)
    feed.publish(ROUTING)


def test_who_does_not_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(routing_feed, "PATIENCE_S", 1)
    with theirs:
        feed = RoutingFeed({FD_VARIABLE: b"%d" % ours.detach()})
        feed.publish(Routing(b"x", frozenset((b"y" * 4000000,)), frozenset(), {}))  # more than the socket holds
        theirs.settimeout(20)
        while theirs.recv(1 << 20):
            pass


def test_the_variable_goes_no_further() -> None:
    assert without_feed({FD_VARIABLE: b"7", b"PATH": b"/bin"}) == {b"PATH": b"/bin"}
