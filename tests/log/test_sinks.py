"""Where events go."""

import os

from pyqmail.log.events import MessageEnded, NewMessage
from pyqmail.log.sinks import LineSink
from pyqmail.system.loop import Loop


def test_a_line_is_written_at_once_until_a_loop_gathers_them() -> None:
    reader, writer = os.pipe()
    sink, loop = LineSink(writer), Loop()
    sink(NewMessage(1))
    assert os.read(reader, 100) == b"new msg 1\n"
    sink.gather(loop)
    sink(NewMessage(2))
    sink(MessageEnded(2))
    os.set_blocking(reader, False)
    loop.run_once(0)
    assert os.read(reader, 100) == b"new msg 2\nend msg 2\n"


def test_a_log_that_is_gone_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    LineSink(writer)(NewMessage(1))
