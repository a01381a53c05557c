"""How many connections come from one network: at once, and in a minute (tcpserver(1)).

The counts are in memory that tcpserver and its children share, so that nobody is asked and no system call is made. Each
child has a place, found for it before its fork; what it leaves there when it dies, its parent clears.

    places     one number for each child: the network of its connection, or 0
    minutes    pairs of numbers: a network; the minute and the count in it

Two processes that write at once may lose one of a minute's counts; places have one writer each.
"""

import _socket
import mmap
import socket
import time

from pyqmail.login.failures import network_of

MINUTES = 8192  # networks whose minute is known; with more in one minute some are not counted
PROBES = 8
COUNT_BITS = 24


class Crowd:
    """The counts of one server. 0 is no limit."""

    def __init__(self, places: int, *, at_once: int, a_minute: int) -> None:
        self._at_once = at_once
        self._a_minute = a_minute
        self._memory = mmap.mmap(-1, 8 * (places + 2 * MINUTES))
        self._numbers = memoryview(self._memory).cast("Q")
        self._places, self._minutes = self._numbers[:places], self._numbers[places:]
        self._free = list(range(places))
        self._taken: dict[int, int] = {}  # a child and its place
        self._mine = 0

    # In the parent.

    def find_place(self) -> None:
        """Have a place for the child that is forked next."""
        self._mine = self._free[-1]

    def placed(self, pid: int) -> None:
        """It has been forked."""
        self._taken[pid] = self._free.pop()

    def left(self, pid: int) -> None:
        """It has ended."""
        place = self._taken.pop(pid, None)
        if place is not None:
            self._places[place] = 0
            self._free.append(place)

    # In the child.

    def enter(self, ip: str) -> bool:
        """Count a connection from ``ip``; whether there are too many from its network."""
        network = hash(network_of(ip.encode("ascii", "replace"))) & 0xFFFFFFFFFFFFFFFF or 1
        self._places[self._mine] = network
        too_many = bool(self._at_once) and self._places.tolist().count(network) > self._at_once
        return self._too_often(network) or too_many

    def leave(self) -> None:
        """The connection has ended, and this process goes on."""
        self._places[self._mine] = 0

    def close(self) -> None:
        """Have the counts no more, in a child that goes on as somebody else."""
        for part in (self._places, self._minutes, self._numbers):
            part.release()
        self._memory.close()

    def _too_often(self, network: int) -> bool:
        if not self._a_minute:
            return False
        minute = int(time.monotonic() // 60) << COUNT_BITS
        for probe in range(PROBES):
            at = 2 * ((network + probe) % MINUTES)
            counted = self._minutes[at + 1]
            if self._minutes[at] == network or counted < minute:
                count = counted - minute + 1 if self._minutes[at] == network and counted >= minute else 1
                self._minutes[at], self._minutes[at + 1] = network, minute + min(count, (1 << COUNT_BITS) - 1)
                return count > self._a_minute
        return False


def send_away(connection: _socket.socket, message: bytes) -> None:
    """Tell the client why it is not served, as far as it takes that at once."""
    if message:
        try:
            connection.send(message + b"\r\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass
