"""A node that cannot renew its lease ends what it delivers before another node may adopt it."""

import time
from pathlib import Path

from pyqmail.shadow.settings import LEASE_MIN_S
from pyqmail.system.processes import look
from tests.integration.mailhost import hold_deliveries
from tests.postgresql import PostgreSQL
from tests.shadow.conftest import USER
from tests.shadow.node import node
from tests.shadow.test_adoption import HELD, subjects
from tests.waiting import wait_for


def test_a_long_delivery_ends_before_another_node_may_make_it_and_is_made_once_with_the_lease(
    database: PostgreSQL, maildir: Path
) -> None:
    gate, started = hold_deliveries(USER)
    with node(database, "five.example.test", lease_s=LEASE_MIN_S) as cut_off:

        def ends() -> float:
            """When the lease does by the database, whose clock is ours: nobody adopts before."""
            sql = "SELECT extract(epoch FROM until) FROM shadow_node WHERE name = 'five.example.test'"
            return float(database.run(sql)[0])

        assert cut_off.queue(b"Subject: slow\n\n", HELD) == 0
        program = int(started.read_text())
        before = ends()
        wait_for(lambda: ends() > before, "a renewal: the next one is far")
        end = ends()
        database.stop()
        assert look(program) is not None
        wait_for(lambda: look(program) is None, "the end of the program", LEASE_MIN_S * 2)
        assert time.time() < end
        log = cut_off.log
        wait_for(lambda: b"deferral: This_delivery_was_ended:_another_machine_may" in log.read_bytes(), "the report")
        assert b"warning: no lease: deliveries under way are ended: 1\n" in log.read_bytes()
        assert b"ends no delivery" not in log.read_bytes()
        assert cut_off.queued() == 1 and subjects(maildir) == []
        database.start()
        assert int(started.read_text()) != program, "it is delivered again"
        gate.write_text("")
        wait_for(lambda: cut_off.queued() == 0 and not cut_off.copies(), "its end, and that of its copy")
        assert subjects(maildir) == [b"Subject: slow"]
