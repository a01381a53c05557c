"""The two pipes by which a message and its envelope go to whoever queues them, seen from the end that is written."""

import os

PAGE = 4096  # what any pipe takes


class Pipes:
    """The write ends. ``ends`` are those that are read, message and envelope, until they have been passed on."""

    __slots__ = ("_envelope", "_message", "ends")

    def __init__(self) -> None:
        """Raises OSError, and nothing is open then."""
        message, self._message = os.pipe2(os.O_CLOEXEC)
        try:
            envelope, self._envelope = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(message)
            os.close(self._message)
            raise
        self.ends: tuple[int, ...] = (message, envelope)

    def passed_on(self) -> None:
        """Somebody else has the read ends: close them here, or a write to our own ends would wait for ever."""
        for fd in self.ends:
            os.close(fd)
        self.ends = ()

    def fill(self, message: bytes, envelope: bytes) -> tuple[bytes, bytes]:
        """Write what the pipes take while nobody reads; what they do not take, and what is complete is ended."""
        rests = _fill(self._message, message), _fill(self._envelope, envelope)
        if not rests[0]:
            self.end_message()
        if not rests[1]:
            self._end_envelope()
        return rests

    def write_message(self, data: "bytes | bytearray | memoryview") -> bool:
        """Whether all of ``data`` could be written."""
        return _written(self._message, data)

    def write_envelope(self, data: bytes) -> bool:
        """Whether all of ``data`` could be written."""
        return _written(self._envelope, data)

    def end_message(self) -> None:
        """The message is complete; harmless when said before."""
        if self._message >= 0:
            os.close(self._message)
            self._message = -1

    def _end_envelope(self) -> None:
        if self._envelope >= 0:
            os.close(self._envelope)
            self._envelope = -1

    def close(self) -> None:
        """End both, and let go of all; harmless when done before."""
        self.passed_on()
        self.end_message()
        self._end_envelope()


def _fill(fd: int, data: bytes) -> bytes:
    """Write to an empty pipe that nobody reads yet; what it does not take."""
    if len(data) <= PAGE:
        return data[os.write(fd, data) :] if data else b""
    try:
        return data[os.pwritev(fd, (data,), -1, os.RWF_NOWAIT) :]
    except BlockingIOError:
        return data
    except OSError:  # before Linux 6.4 pipes know no such write
        return data[_write_at_once(fd, data) :]


def _write_at_once(fd: int, data: bytes) -> int:
    """As much as there is room for; how much that was."""
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    finally:
        os.set_blocking(fd, True)


def _written(fd: int, data: "bytes | bytearray | memoryview") -> bool:
    from pyqmail.system import files

    try:
        if data:
            files.write_all(fd, data)
    except OSError:
        return False
    return True
