"""Programs that a forked child goes on as with no interpreter of its own: ours, as they were when its parent started.

qmail-popup runs checkpassword, which becomes qmail-pop3d: two interpreters for each session, where they are executed.
tcpserver has them in memory, as it has qmail-popup (tcp/chain). Who runs the next program asks ``go_on_as``; anything
that is not ours, or has changed, is executed.
"""

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence

from pyqmail.system.process import close_all_but, ignore_signals, set_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.system.stamp import Seen
    from pyqmail.warm.served import Main

DEFAULT_PATH = b"/bin:/usr/bin"


class Successors:
    """What a parent has in memory for its children to become. ``inherited`` is set before it forks.

    ``path`` is the PATH that names were found by.
    """

    inherited: "Successors | None" = None

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._programs: dict[bytes, tuple[Main, int, Seen]] = {}
        self._closing: list[Callable[[], None]] = []

    def add(self, name: bytes, main: "Main", crash_exit: int, seen: "Seen") -> None:
        """``name`` in a command line is ``main``, as long as the files in ``seen`` stay; whatever escapes from it is
        ``crash_exit`` (launch)."""
        self._programs[name] = main, crash_exit, seen

    def without(self, close: Callable[[], None]) -> None:
        """Have ``close`` called in a child before it goes on: memory that it shares with the parent is not its own."""
        self._closing.append(close)

    def find(self, name: bytes, environ: Mapping[bytes, bytes]) -> "tuple[Main, int] | None":
        """The program that executing ``name`` would run, if it is here, and its crash code."""
        if name not in self._programs or (b"/" not in name and environ.get(b"PATH", DEFAULT_PATH) != self._path):
            return None
        main, crash_exit, seen = self._programs[name]
        return (main, crash_exit) if seen.unchanged() else None

    def close(self) -> None:
        """Give up what is shared with the parent."""
        for close in self._closing:
            close()


def go_on_as(argv: Sequence[bytes], environ: Mapping[bytes, bytes], keep: Iterable[int] = (0, 1, 2)) -> None:
    """Become the program ``argv``, which the PATH of ``environ`` finds, with the descriptors ``keep``. Raises OSError.

    Only for a process that has nothing in memory which that program must not have.
    """
    successors = Successors.inherited
    found = None if successors is None else successors.find(argv[0], environ)
    if successors is None or found is None:
        os.execvpe(argv[0], list(argv), dict(environ))
    main, code = found
    try:
        close_all_but(keep)
        successors.close()
        ignore_signals(signal.SIGPIPE, signal.SIGXFSZ)  # as an interpreter does that begins
        set_title(os.fsdecode(argv[0]).rpartition("/")[2])
        code = main(list(argv), environ)
    except BaseException:  # nothing of the caller runs in this process any more
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(code & 255)
