"""Which copies are of messages that the queue has, or has had: what qmail-shadowd finds out while it may read there."""

from contextlib import suppress

from pyqmail.formats.todo import UnknownRecord, parse_info_shadow, parse_todo
from pyqmail.protocol.shadow import is_id
from pyqmail.spool.ended import read_ended
from pyqmail.spool.layout import Layout
from pyqmail.spool.sweep import absent, numbers_in
from pyqmail.system import files

INFO_MAX = 4096  # bytes of info/N that are read


def copies_in(layout: Layout) -> frozenset[str]:
    """The IDs of those copies. Raises OSError for a directory that cannot be read.

    A message goes from todo/ to info/ and never back, so looking there in this order misses none. One that has lost its
    body, or whose envelope cannot be read, the queue does not have.
    """
    splits = range(layout.split)
    found = set(read_ended(layout))
    for part in [f"todo/{split}" for split in splits] if layout.todo_split else ["todo"]:
        for number in numbers_in(f"{layout.queue}/{part}"):
            with suppress(OSError, UnknownRecord):
                todo = parse_todo(files.read_file(layout.todo(number)))
                if todo.shadow and not absent(layout.mess(number)):
                    found.add(todo.shadow)
    for split in splits:
        for number in numbers_in(f"{layout.queue}/info/{split}"):
            with suppress(OSError):
                identity = parse_info_shadow(files.read_file(layout.info(number), INFO_MAX))
                if identity and not absent(layout.mess(number)):
                    found.add(identity)
    return frozenset(identity.decode() for identity in found if is_id(identity))
