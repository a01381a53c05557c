"""qmail-qstat: how many messages the queue holds, and how many of them are new (qmail-qstat(8))."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.exits import LocalExit


def count_files(directory: str) -> int:
    """The regular files below ``directory``, at any depth. Raises OSError."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += count_files(entry.path)
            elif entry.is_file(follow_symlinks=False):
                total += 1
    return total


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Print two lines; 111 and a line on descriptor 2 where the queue cannot be read."""
    queue = home_of(environ) + "/queue"
    try:
        messages, new = count_files(queue + "/mess"), count_files(queue + "/todo")
    except OSError as error:
        os.write(2, f"qmail-qstat: fatal: unable to read {error.filename}: {error.strerror}\n".encode())
        return LocalExit.TEMPORARY
    os.write(1, f"messages in queue: {messages}\nmessages in queue but not yet preprocessed: {new}\n".encode())
    return LocalExit.DONE
