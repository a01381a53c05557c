"""qmail-shadowd at work: one loop that hears what is to be copied and removed, and threads that do it (shadow/writer).

A copy is *asked* for, *made*, and *kept* once its message is in the queue. Who goes away before that has it withdrawn:
as soon as the database answers, and once more later where nobody knows whether a COMMIT took place.
"""

import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence

from pyqmail.formats.logline import safe_words
from pyqmail.protocol import shadow
from pyqmail.shadow.clients import Client, Clients
from pyqmail.shadow.identity import boot_id
from pyqmail.shadow.lease import MARGIN, NOTHING, Held, Lease
from pyqmail.shadow.nodes import Nodes
from pyqmail.shadow.settings import Settings
from pyqmail.shadow.store import Copy, Mark, Node, SmallCopy, copies_asked
from pyqmail.shadow.writer import Writer
from pyqmail.system.logpipe import LogWriter
from pyqmail.system.loop import Loop

NAME = b"qmail-shadowd"
LINES_MAX = 20
SAY_S = 10.0  # from one line about a trouble to the next
UNCERTAIN_S = 60.0  # after which the copies of a transaction that failed are removed once more


class Service:
    """The loop. ``copying`` are the uids that may have messages copied, ``ending`` those that say which have left.

    ``present`` are the copies of messages that the queue has or has had (shadow/present); ``take_in`` puts into it what
    it lacks (shadow/adoption).
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        settings: Settings,
        queue: str,
        *,
        present: Collection[str],
        take_in: Callable[[Nodes, Node], int],
        copying: Collection[int],
        ending: Collection[int],
    ) -> None:
        self._loop = loop
        self._copying = copying
        self._ending = ending
        self._bytes_max = settings.bytes_max
        self._margin_s = int(settings.lease_s * MARGIN)
        self._held = NOTHING
        self._stored = 0  # bytes, as far as is known
        self._under_way = 0  # bytes of what is asked for
        self._asked: dict[str, Client] = {}  # who waits for the copy of an ID
        self._ended: dict[str, Client] = {}  # who waits to hear that it is gone
        self._log = LogWriter(2, NAME)
        self._unsaid: deque[bytes] = deque(maxlen=LINES_MAX)  # lines that nobody has heard
        self._quiet: set[str] = set()  # troubles that were told of a moment ago
        lease = Lease(settings, queue, boot_id(), present, self._tell_lease)
        self._writer = Writer(loop, settings, lease, self._copied, self._removed, self._sized)
        self._clients = Clients(loop, listener, {*copying, *ending}, self._obey, self._left)
        loop.add_reader(self._writer.event, self._writer.collect)
        self._writer.start()
        self._writer.take_in(take_in, self._taken_in)

    def _tell_lease(self, held: Held, trouble: str) -> None:
        """Called from the thread that keeps the lease."""
        self._writer.node = held.node
        self._writer.tell(lambda: self._lease_told(held, trouble))

    def _lease_told(self, held: Held, trouble: str) -> None:
        if trouble:
            self._say_seldom("lease", f"the lease is not renewed: {trouble}")
        if held.taken and self._held.node is None:
            self.say(f"others have adopted {len(held.taken)} messages of this queue: they are not delivered here")
        self._held = held
        for client in self._clients.all:
            if client.serves:
                self._tell_held(client)

    def _tell_held(self, client: Client) -> None:
        """What others have taken, if it has not been told, and then until when the rest is ours."""
        taken = [identity.encode() for identity in self._held.taken - client.told]
        for start in range(0, len(taken), shadow.IDS_MAX):
            client.say(shadow.TAKEN, *taken[start : start + shadow.IDS_MAX])
        client.told = self._held.taken
        client.say(shadow.LEASE, b"%d" % self._held.until)

    def say(self, text: str) -> None:
        """A line of the log, and of that of qmail-send: a helper of qmail-start has none of its own."""
        line = safe_words(text)[: shadow.LINE_MAX]
        self._log.write(NAME + b": " + line + b"\n")
        serving = [client for client in self._clients.all if client.serves]
        for client in serving:
            client.say(shadow.SAY, line)
        if not serving:
            self._unsaid.append(line)

    def _say_seldom(self, kind: str, text: str) -> None:
        if kind not in self._quiet:
            self._quiet.add(kind)
            self._loop.call_later(SAY_S, lambda: self._quiet.discard(kind))
            self.say(text)

    def _obey(self, client: Client, word: bytes, rest: list[bytes], fds: list[int]) -> bool:
        """Whether that was something that this client may say. Raises OSError."""
        if word == shadow.COPY and client.uid in self._copying:
            asked = copies_asked(rest, fds)
            for copy in asked:
                if self._copy(client, copy):
                    fds.clear()  # the writer closes them
            return bool(asked)
        if word == shadow.SERVE and client.uid in self._ending:
            client.serves = True
            while self._unsaid:
                client.say(shadow.SAY, self._unsaid.popleft())
            client.say(shadow.MARGIN, b"%d" % self._margin_s)
            self._tell_held(client)
            return True
        if word == shadow.DONE and client.uid in self._ending:
            return self._mark(rest)
        if not rest or len(rest) > shadow.IDS_MAX or not all(map(shadow.is_id, rest)):
            return False
        identities = [identity.decode() for identity in rest]
        if word == shadow.ENDED and client.uid in self._ending:
            self._ended.update(dict.fromkeys(identities, client))
            self._writer.remove(identities)
            return True
        if word in (shadow.KEPT, shadow.WITHDRAW) and client.uid in self._copying:
            for identity in identities:
                client.open.pop(identity, None)
            if word == shadow.WITHDRAW:
                self._writer.remove(identities)
            return True
        return False

    def _mark(self, words: list[bytes]) -> bool:
        """Whether those were marks, and are taken."""
        triples = list(zip(words[::3], words[1::3], words[2::3], strict=False))
        if len(words) != 3 * len(triples) or not all(
            shadow.is_id(identity) and len(place) <= shadow.PLACE_MAX and place.isascii() and b"\0" not in place
            for identity, place, _ in triples
        ):
            return False
        self._writer.mark(Mark(identity.decode(), place.decode(), recipient) for identity, place, recipient in triples)
        return True

    def _left(self, client: Client) -> None:
        """A client has gone: what it did not keep is withdrawn, what is being copied as soon as that is over."""
        copied = [identity for identity, done in client.open.items() if done]
        if copied:
            self._writer.remove(copied)

    # copies

    def _copy(self, client: Client, copy: Copy | SmallCopy) -> bool:
        """Whether there is room for one more."""
        if self._stored + self._under_way + copy.stored > self._bytes_max:
            self._say_seldom("full", f"no more is copied: control/shadowmax is {self._bytes_max} bytes")
            client.say(shadow.NO, copy.identity.encode())
            return False
        self._under_way += copy.stored
        client.open[copy.identity] = False
        self._asked[copy.identity] = client
        self._writer.copy(copy)
        return True

    def _copied(self, batch: Sequence[Copy | SmallCopy], why: str | None) -> None:
        """A transaction is over."""
        answers: dict[Client, list[bytes]] = {}
        for copy in batch:
            client = self._asked.pop(copy.identity)
            answers.setdefault(client, []).append(copy.identity.encode())
            self._under_way -= copy.stored
            if why is not None:
                client.open.pop(copy.identity, None)
                continue
            self._stored += copy.stored
            if client in self._clients.all:
                client.open[copy.identity] = True
            else:
                self._writer.remove([copy.identity])
        for client, identities in answers.items():
            client.say(shadow.OK if why is None else shadow.NO, *identities)
        if why is not None:
            self._say_seldom("away", f"no copy of {len(batch)} messages: {why}")
            uncertain = [copy.identity for copy in batch]
            self._writer.remove(uncertain, uncertain=True)
            self._loop.call_later(UNCERTAIN_S, lambda: self._writer.remove(uncertain, uncertain=True))

    def _removed(self, identities: list[str], freed: int) -> None:
        self._stored -= freed
        gone: dict[Client, list[bytes]] = {}
        for identity in identities:
            client = self._ended.pop(identity, None)
            if client in self._clients.all:
                gone.setdefault(client, []).append(identity.encode())
        for client, ids in gone.items():
            for start in range(0, len(ids), shadow.IDS_MAX):
                client.say(shadow.GONE, *ids[start : start + shadow.IDS_MAX])

    def _taken_in(self, count: int, trouble: str) -> None:
        if trouble:
            self._say_seldom("lacked", f"messages that only the database has are not in the queue yet: {trouble}")
        elif count:
            self.say(f"{count} messages that only the database had are in the queue again")

    def _sized(self, size: int) -> None:
        self._stored = size
