"""Which copies are of messages that the queue has, or has had: what qmail-shadowd finds out while it may read there."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyqmail.formats.todo import UnknownRecord, parse_info_shadow, parse_todo
from pyqmail.protocol.shadow import is_id
from pyqmail.spool.ended import read_ended
from pyqmail.spool.layout import Layout
from pyqmail.spool.sweep import absent, numbers_in
from pyqmail.system import files

INFO_MAX = 4096  # bytes of info/N that are read
WANTING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # what says nothing of a file, but of us


def copies_in(layout: Layout) -> frozenset[str]:
    """The IDs of those copies. Raises OSError for a directory that cannot be read, and where we have no more files.

    A message goes from todo/ to info/ and never back, so looking there in this order misses none. One that has lost its
    body, or whose envelope cannot be read, the queue does not have.
    """
    splits = range(layout.split)
    found = set(read_ended(layout))
    for part in [f"todo/{split}" for split in splits] if layout.todo_split else ["todo"]:
        for number in numbers_in(f"{layout.queue}/{part}"):
            with _lost_if_unreadable():
                todo = parse_todo(files.read_file(layout.todo(number)))
                if todo.shadow and not absent(layout.mess(number)):
                    found.add(todo.shadow)
    for split in splits:
        for number in numbers_in(f"{layout.queue}/info/{split}"):
            with _lost_if_unreadable():
                identity = parse_info_shadow(files.read_file(layout.info(number), INFO_MAX))
                if identity and not absent(layout.mess(number)):
                    found.add(identity)
    return frozenset(identity.decode() for identity in found if is_id(identity))


@contextmanager
def _lost_if_unreadable() -> Iterator[None]:
    try:
        yield
    except UnknownRecord:
        pass
    except OSError as error:
        if error.errno in WANTING:
            raise  # else all that is there would be put into the queue once more
