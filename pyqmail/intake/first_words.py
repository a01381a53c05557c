"""Connections of root that have not said anything: no worker is made for a root who only looks whether we answer."""

import _socket
import select
from collections.abc import Callable

from pyqmail.system.loop import Loop


class FirstWords:
    """Waits for the first word on each connection."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._silent: set[_socket.socket] = set()

    def wait(self, connection: _socket.socket, word: Callable[[], None], gone: Callable[[], None]) -> None:
        """Call ``word`` when something has come; close the connection and call ``gone`` when it was hung up."""

        def look() -> None:
            self._loop.remove_reader(connection.fileno())
            self._silent.discard(connection)
            poll = select.poll()
            poll.register(connection, 0)
            if poll.poll(0):  # hung up
                connection.close()
                gone()
            else:
                word()

        self._silent.add(connection)
        self._loop.add_reader(connection.fileno(), look)

    def release(self) -> list[_socket.socket]:
        """All who have said nothing; nobody waits for them any more."""
        found = list(self._silent)
        for connection in found:
            self._loop.remove_reader(connection.fileno())
        self._silent.clear()
        return found
