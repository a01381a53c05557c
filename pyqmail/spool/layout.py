"""Where everything in the queue lies (queue directory layout of qmail: INTERNALS, section 2). Paths are absolute."""

import os

from pyqmail.control import read_knobs

DRAFTS = 512  # places that files without a name are made in
MARK = 0o1000  # in the mode of mess/N: it has facts (spool/facts). The bit means nothing for a file, elsewhere neither


class Layout:
    """The paths of one queue; message numbers are inodes of mess files, split by remainder."""

    __slots__ = ("home", "queue", "split", "todo_split")

    def __init__(self, home: str, split: int, *, todo_split: bool = False) -> None:
        self.home = home
        self.queue = home + "/queue"
        self.split = split
        self.todo_split = todo_split  # the hashed "big-todo" layout of an adopted queue

    def part(self, part: str, number: int) -> str:
        """The path of message ``number`` in a split ``part``: mess, info, local or remote."""
        return f"{self.queue}/{part}/{number % self.split}/{number}"

    def relative(self, part: str, number: int) -> str:
        """The same below the queue directory, as log lines show it."""
        return f"{part}/{number % self.split}/{number}"

    def mess(self, number: int) -> str:
        """The message file of ``number``."""
        return f"{self.queue}/mess/{number % self.split}/{number}"

    def info(self, number: int) -> str:
        """The file with the envelope sender; its mtime is the birth of the message."""
        return f"{self.queue}/info/{number % self.split}/{number}"

    def local(self, number: int) -> str:
        """The local channel's recipients."""
        return f"{self.queue}/local/{number % self.split}/{number}"

    def remote(self, number: int) -> str:
        """The remote channel's recipients."""
        return f"{self.queue}/remote/{number % self.split}/{number}"

    def todo(self, number: int) -> str:
        """The envelope of a message that waits for preprocessing."""
        if self.todo_split:
            return f"{self.queue}/todo/{number % self.split}/{number}"
        return f"{self.queue}/todo/{number}"

    def intd(self, number: int) -> str:
        """The envelope under construction."""
        if self.todo_split:
            return f"{self.queue}/intd/{number % self.split}/{number}"
        return f"{self.queue}/intd/{number}"

    def facts(self, number: int) -> str:
        """What is to be known of ``number`` beside its envelope; most messages have no such file."""
        return f"{self.queue}/pyqmail/facts/{number % self.split}/{number}"

    def bounce(self, number: int) -> str:
        """The failure paragraphs collected for the bounce of ``number``."""
        return f"{self.queue}/bounce/{number}"

    @property
    def pid(self) -> str:
        """The directory of messages without a number."""
        return self.queue + "/pid"

    @property
    def trigger(self) -> str:
        """The FIFO that wakes qmail-send."""
        return self.queue + "/lock/trigger"

    @property
    def sendmutex(self) -> str:
        """The lock of the one running qmail-send."""
        return self.queue + "/lock/sendmutex"

    @property
    def tcpto(self) -> str:
        """The table of hosts that timed out."""
        return self.queue + "/lock/tcpto"

    @property
    def private(self) -> str:
        """What only pyqmail keeps: holds, orders, notes of attempts (qmail-q(8)). Other qmails ignore it."""
        return self.queue + "/pyqmail"

    def drafts(self, turn: int) -> str:
        """A directory in which nothing ever has a name: draft ``turn`` is made there, and linked elsewhere."""
        return f"{self.queue}/pyqmail/drafts/{turn % DRAFTS}"

    @property
    def transfers(self) -> str:
        """Which messages of other nodes were taken in (spool/transfers)."""
        return self.private + "/transfers"

    @property
    def ended(self) -> str:
        """Copies of messages that have left the queue (spool/ended)."""
        return self.private + "/ended"

    @property
    def send_socket(self) -> str:
        """The socket of a running qmail-send, for qmail-q."""
        return self.home + "/run/send/control"

    @property
    def run_socket(self) -> str:
        """The socket of qmail-queued."""
        return self.home + "/run/qmail-queued.sock"

    @property
    def run_own_socket(self) -> str:
        """The socket of qmail-queued for our own warm programs."""
        return self.home + "/run/qmail-queued.own"

    @property
    def run_lock(self) -> str:
        """The lock of the one running qmail-queued."""
        return self.home + "/run/qmail-queued.lock"

    @property
    def serial(self) -> str:
        """The counter that submission serials are reserved from."""
        return self.home + "/run/serial"


def split_of(queue: str, configured: int) -> int:
    """The split of ``queue``: ``configured``, unless its directories clearly have another (spool/split.py)."""
    mess = queue + "/mess/"
    if os.path.isdir(mess + str(configured - 1)) and not os.path.isdir(mess + str(configured)):
        return configured
    from pyqmail.spool.split import count_split  # only for a queue that looks odd: qmail-queue starts once a message

    return count_split(queue, configured)


def _todo_split(queue: str, split: int) -> bool:
    """Whether todo/ is hashed: most of its subdirectories are there, as one alone may be somebody's stray."""
    if os.stat(queue + "/todo").st_nlink == 2:  # none, where directories count theirs
        return False
    return 2 * sum(os.path.isdir(f"{queue}/todo/{remainder}") for remainder in range(split)) > split


def read_layout(home: str) -> Layout:
    """The layout of the queue below ``home``, its split and a hashed todo/ recognised. Raises ControlUnreadable."""
    queue = home + "/queue"
    split = split_of(queue, read_knobs(home).split)
    try:
        return Layout(home, split, todo_split=_todo_split(queue, split))
    except OSError:
        return Layout(home, split)  # without todo/ nothing can be queued, and qmail-send says so
