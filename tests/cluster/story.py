"""What happens to the cluster while its clients send, and what is there at the end.

a node dies     its processes at once while the mailboxes hang, its queue too; another one adopts what it had
failover        the primary database is killed, the standby promoted
redis dies      for good
a cut           a node reaches nobody for longer than its lease, is adopted, and comes back      (the whole form)
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from tests.cluster.audit import Report, audit
from tests.cluster.clients import Clients
from tests.cluster.node import ClusterNode
from tests.cluster.site import CLIENTS, NODES, PROXY, USERS, Site, site
from tests.waiting import wait_for

LEASE_ENDS_S = 60.0  # a lease of 30 s and a fifth, and room
ADOPTED_S = 120.0
END_S = 600.0  # the copies of a transaction whose end is unknown are removed once more after a minute
STEP = 10  # messages that are accepted after each event, before the next


class Story:
    """A cluster that is being written to. ``tell`` gets a line for each thing that happens."""

    def __init__(self, site: Site, nodes: list[ClusterNode], clients: Clients, tell: Callable[[str], None]) -> None:
        self._site = site
        self._nodes = nodes
        self._clients = clients
        self._tell = tell
        self._lost: set[str] = set()
        self._burnt: set[str] = set()

    def _go_on(self, what: str) -> None:
        self._clients.wait_for_more(STEP, what)
        self._tell(f"{self._clients.accepted} messages accepted {what}")

    def lose_node(self, victim: ClusterNode, heir: ClusterNode, *, wait: bool) -> None:
        """``victim`` dies with what it has accepted; ``heir`` adopts it. ``wait`` for the lease, or end it by hand."""
        with self._site.hanging_mailboxes():
            self._go_on("while the mailboxes hang")
            wait_for(lambda: victim.queued() > 0, "something in its queue")
            waiting = victim.queued()
            victim.burn()
            self._lost.add(victim.me)
            self._burnt.add(victim.me)
        self._tell(f"{victim.me} is lost, and its queue with {waiting} messages")
        self._go_on("by the others")
        if not wait:
            victim.lose_lease()
        self._adopt(victim, heir)

    def _adopt(self, victim: ClusterNode, heir: ClusterNode) -> None:
        wait_for(lambda: not victim.has_lease(), f"the end of the lease of {victim.me}", LEASE_ENDS_S)
        end = time.monotonic() + ADOPTED_S
        done = False
        while not done:
            said = heir.try_to_adopt(victim.me)  # where a machine is busy the queue may ask it to come again
            done = said.returncode == 0
            assert done or time.monotonic() < end, said.stderr
            for line in (said.stdout + said.stderr).splitlines():
                self._tell(f"{heir.me} says: {line}")

    def fail_over(self) -> None:
        """The primary database dies."""
        self._site.database.fail_over()
        self._tell("the primary database is dead, the standby promoted")
        self._go_on("with the other database")

    def lose_redis(self) -> None:
        """What it knew of strangers is forgotten."""
        known = self._site.known_strangers()
        assert known > 0, "Redis was not used"
        self._site.redis.kill()
        self._site.redis.wait()
        self._tell(f"Redis is dead, which had {known} keys")
        self._go_on("without Redis")

    def cut(self, victim: ClusterNode, heir: ClusterNode) -> None:
        """``victim`` reaches nobody until another one has adopted what it had, and comes back."""
        with self._site.hanging_mailboxes():
            self._go_on("while the mailboxes hang")
            wait_for(lambda: victim.queued() > 0, "something in its queue")
            victim.cut_off()
            self._lost.add(victim.me)
            self._tell(f"{victim.me} is cut off with {victim.queued()} messages")
        self._adopt(victim, heir)
        victim.cut_off(cut=False)
        wait_for(victim.has_lease, "its new lease")
        self._tell(f"{victim.me} is back")
        self._go_on("after its return")

    def end(self) -> Report:
        """All that was accepted is delivered; what is where."""
        self._clients.stop()
        assert not self._clients.refused, self._clients.refused[:3]
        left = [node for node in self._nodes if node.me not in self._burnt]

        def rest() -> list[str]:
            """What is in queues, and whose copies are left."""
            for node in left:
                node.retry()
            rows = self._site.database.run(
                "SELECT coalesce(name, owner::text), taking, count(*) FROM shadow_message"
                " LEFT JOIN shadow_node ON queue = owner GROUP BY 1, 2"
            )
            return rows + [f"{node.me} has {node.queued()}" for node in left if node.queued()]

        end = time.monotonic() + END_S
        while left_over := rest():
            assert time.monotonic() < end, f"{left_over}\n" + "\n".join(node.log.read_text()[-3000:] for node in left)
            time.sleep(1)
        stored = {user: self._site.dovecot.stored(user) for user in USERS}
        return audit(self._clients.sent, stored, self._lost)


@contextmanager
def story(tell: Callable[[str], None]) -> Iterator[tuple[Story, list[ClusterNode]]]:
    """Nodes that run and clients that send; gone afterwards."""
    with site() as place, ExitStack() as stack:
        tell("PostgreSQL with a standby, slapd, Redis and Dovecot run")
        with ThreadPoolExecutor() as pool:
            making = [pool.submit(ClusterNode, place.base, place, number) for number in range(NODES)]
        nodes = [made.result() for made in making]
        for node in nodes:
            stack.callback(node.die)
        with ThreadPoolExecutor() as pool:
            list(pool.map(ClusterNode.start, nodes))
        tell("the nodes run")
        place.start_proxy()
        clients = Clients(PROXY, CLIENTS, USERS)
        clients.start()
        stack.callback(clients.stop)
        clients.wait_for_more(2 * STEP, "by three nodes")
        yield Story(place, nodes, clients, tell), nodes


def tell_short(tell: Callable[[str], None]) -> Report:
    """One node lost and adopted, and a failover."""
    with story(tell) as (going, (first, second, _)):
        going.lose_node(first, second, wait=False)
        going.fail_over()
        return going.end()


def tell_whole(tell: Callable[[str], None]) -> Report:
    """All of it, and every lease ends by itself."""
    with story(tell) as (going, (first, second, third)):
        going.lose_node(first, second, wait=True)
        going.fail_over()
        going.lose_redis()
        going.cut(second, third)
        return going.end()
