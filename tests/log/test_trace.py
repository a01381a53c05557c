"""Following a message through many others: what belongs together, and that it takes no time for each pair."""

import time

from pyqmail.log.trace import Trace

BEGIN = (1 << 62) + 10 + 1_700_000_000


def lines(count: int) -> list[str]:
    """Messages to two domains by turns, each with its decision."""
    found = []
    for number in range(count):
        stamp = f"@{BEGIN + number:016x}00000000 "
        to = f"u{number}@{'ab'[number % 2]}.test"
        found.append(
            f"{stamp}qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<s@c.test> to=<{to}> bytes=1 qp={number + 1}"
        )
        found += [f"{stamp}new msg 7", f"{stamp}info msg 7: bytes 1 from <s@c.test> qp {number + 1} uid 0"]
        found += [f"{stamp}starting delivery {number}: msg 7 to local {to}", f"{stamp}end msg 7"]
    return found


def test_half_of_all_messages_are_found_in_the_time_that_reading_takes() -> None:
    trace = Trace("@a.test")
    begun = time.process_time()
    trace.feed("log", lines(20_000))
    reading_s = time.process_time() - begun
    found = list(trace.found())
    assert len(found) == 5 * 10_000 and not any("b.test" in line.text for line in found)
    assert time.process_time() - begun < 4 * reading_s


def test_a_number_that_is_used_again_hours_later_is_another_message() -> None:
    trace = Trace("@a.test")
    first, later = f"@{BEGIN:016x}00000000 ", f"@{BEGIN + 8000:016x}00000000 "
    door = "qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<s@c.test> to=<x@{}.test> bytes=1 qp=5"
    trace.feed("log", [first + door.format("a"), later + door.format("b")])
    assert [line.text for line in trace.found()] == [door.format("a")]
