"""The lines of a log joined, chosen and counted: given these lines, what is there to show?"""

from collections.abc import Sequence

import pytest

from pyqmail.log.counts import add_item
from pyqmail.log.filters import Filters
from pyqmail.log.joiner import Delivery, Item, Joiner, Message, Session, Trouble
from pyqmail.log.printer import duration
from pyqmail.log.stamps import parse_line
from pyqmail.log.statistics import Statistics

BEGAN = [
    "new msg 5",
    "info msg 5: bytes 211 from <bob@client.test> qp 77 uid 1002",
    "starting delivery 1: msg 5 to local ann@a.test",
    "starting delivery 2: msg 5 to remote joe@b.test",
]
ENDED = [
    "delivery 2: deferral: greeting_failed/",
    "delivery 1: success: did_1+0+0/",
    "starting delivery 3: msg 5 to remote joe@b.test",
    "delivery 3: failure: no_such_user/",
    "bounce msg 5 qp 79",
    "end msg 5",
]


def join(lines: Sequence[str]) -> list[Item]:
    """The items of ``lines``, a second apart."""
    joiner = Joiner()
    stamps = (f"@{(1 << 62) + 10 + 1_700_000_000 + second:016x}00000000 " for second in range(len(lines)))
    return [item for stamp, line in zip(stamps, lines, strict=True) for item in joiner.take(*parse_line(stamp + line))]


def message_of(items: list[Item]) -> Message:
    (message,) = (item for item in items if isinstance(item, Message))
    return message


def test_a_message_has_its_deliveries_in_the_order_of_their_ends() -> None:
    items = join(BEGAN + ENDED)
    message = message_of(items)
    assert [type(item) for item in items] == [Delivery, Delivery, Delivery, Message]
    assert (message.sender, message.size, message.qp, message.uid) == ("bob@client.test", 211, 77, 1002)
    results = [(each.recipient, each.result, each.text) for each in message.deliveries]
    assert results == [
        ("joe@b.test", "deferral", "greeting_failed"),
        ("ann@a.test", "success", "did_1+0+0"),
        ("joe@b.test", "failure", "no_such_user"),
    ]
    assert message.bounced


def test_a_delivery_that_began_before_the_log_is_nobodys() -> None:
    items = join(ENDED)
    assert [each.recipient for each in message_of(items).deliveries] == ["joe@b.test"]


def test_what_has_not_ended_is_not_shown() -> None:
    assert join(BEGAN) == []


def test_a_number_is_used_again_for_another_message() -> None:
    again = ["new msg 5", "info msg 5: bytes 9 from <eve@c.test> qp 80 uid 0", "end msg 5"]
    first, second = (item for item in join(BEGAN + ENDED + again) if isinstance(item, Message))
    assert (len(first.deliveries), second.sender, second.deliveries) == (3, "eve@c.test", [])


def test_sessions_and_alerts_stand_for_themselves() -> None:
    decision = "qmail-smtpd: refused ip=192.0.2.66 helo=x from=<s@p.test> to=<a@z.test> reason=553_sorry"
    session, alert = join([decision, "alert: unable to stat info"])
    assert isinstance(session, Session) and isinstance(alert, Trouble)
    assert (session.result, session.ip, session.sender) == ("refused", "192.0.2.66", "s@p.test")


def wanted(**given: str | int | float) -> Filters:
    values = {"sender": "", "recipient": "", "address": "", "host": "", "result": "", "number": None, "since": None}
    return Filters(**{**values, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        pytest.param(wanted(), True, id="no filter"),
        pytest.param(wanted(sender="BOB@"), True, id="the sender, whatever the case"),
        pytest.param(wanted(sender="joe"), False, id="a recipient is no sender"),
        pytest.param(wanted(address="joe"), True, id="but an address"),
        pytest.param(wanted(recipient="joe", result="success"), False, id="that recipient had no success"),
        pytest.param(wanted(recipient="ann", result="success"), True, id="that one had"),
        pytest.param(wanted(host="b.test"), True, id="a recipient's host"),
        pytest.param(wanted(number=5), True, id="the message number"),
        pytest.param(wanted(number=77), True, id="the qp number"),
        pytest.param(wanted(number=7), False, id="another number"),
        pytest.param(wanted(since=2e9), False, id="it was before"),
    ],
)
def test_what_is_wanted(filters: Filters, shown: bool) -> None:
    assert filters.wants(1.7e9, message_of(join(BEGAN + ENDED))) is shown


def test_statistics_count_each_attempt_and_each_message_once() -> None:
    statistics = Statistics()
    for item in join(BEGAN + ENDED):
        add_item(statistics, 0.0, item)
    lines = list(statistics.lines())
    assert lines[0] == "messages that left the queue: 1, 211 bytes"
    assert [line.split() for line in lines[1:5]] == [
        ["success", "1"],
        ["deferral", "1"],
        ["failure", "1"],
        ["alert", "0"],
    ]
    assert any(line.split() == ["2", "b.test", "(0/1/1)"] for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (1, "1.0 s"), (119, "119.0 s"), (120, "2 min"), (7200, "2 h"), (172800, "2.0 d")],
)
def test_a_duration_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
