"""qmail-qread: every preprocessed message with its recipients (qmail-qread(8)). Errors go to stdout too, as in qmail.

26 Sep 1995 04:46:53 GMT  #457  312  <joe@a.example>  bouncing
  done	remote	bob@far.example
    local	ann@here.example
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.exits import LocalExit
from pyqmail.formats.date822 import format_date
from pyqmail.formats.printable import printable
from pyqmail.formats.todo import RecipientParser
from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.system import files

CHANNELS = ("local", "remote")


def _first_line(layout: Layout, number: int) -> bytes:
    size = os.stat(layout.mess(number)).st_size
    bouncing = b" bouncing" if os.path.exists(layout.bounce(number)) else b""
    data, birth = files.read_dated(layout.info(number))
    sender = data.partition(b"\0")[0][1:]
    date = format_date(birth).removesuffix(b" -0000")
    return b"%b GMT  #%d  %d  <%b> %b" % (date, number, size, sender, bouncing)


def _recipients(path: str, channel: str) -> Iterator[bytes]:
    """One line for each record; what is neither done nor to do is left out."""
    parser = RecipientParser()
    fd = files.open_read(path)
    try:
        while chunk := os.read(fd, files.CHUNK):
            for _, mark, address in parser.feed(chunk):
                if mark in (b"D", b"T"):
                    done = b"  done" if mark == b"D" else b""
                    yield b"%b\t%b\t%b\n" % (done, channel.encode(), printable(address, b"_"))
    finally:
        os.close(fd)


def describe(layout: Layout, number: int) -> Iterator[bytes]:
    """The lines of one message; a file that cannot be read is a warning among them."""
    try:
        yield printable(_first_line(layout, number), b"_") + b"\n"
    except OSError as error:
        yield _warning(number, error)
        return
    for channel in CHANNELS:
        try:
            yield from _recipients(layout.part(channel, number), channel)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield _warning(number, error)


def _warning(number: int, error: OSError) -> bytes:
    return f"warning: trouble with #{number}: {(error.strerror or 'error').lower()}\n".encode()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Print the queue; 111 if it cannot be read."""
    home = home_of(environ)
    try:
        os.chdir(home + "/queue")
        layout = read_layout(home)
        for number in sweep.Waiting(layout):
            files.write_all(1, b"".join(describe(layout, number)))
    except ControlUnreadable as error:
        os.write(1, f"fatal: unable to read {error}\n".encode())
        return LocalExit.TEMPORARY
    except BrokenPipeError:
        return LocalExit.TEMPORARY
    except OSError as error:
        os.write(1, f"fatal: unable to read {error.filename}: {(error.strerror or 'error').lower()}\n".encode())
        return LocalExit.TEMPORARY
    return LocalExit.DONE
