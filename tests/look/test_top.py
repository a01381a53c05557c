"""qmail-top: what is shown of a queue and a log, on 80 columns, and what the keys do."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

from textual.widgets import DataTable, Static

from pyqmail.look.overview import FLOW_S, Flow, Overview, Row, add_log
from pyqmail.look.overview_text import lines
from pyqmail.look.top import TopApp
from pyqmail.protocol.control import Request
from pyqmail.send.control_client import QueueError

NOW = 1_795_392_000.0


def row(number: int, age_s: float = 60, domain: str = "b.test", reply: str = "451 later") -> Row:
    return Row(number, "waiting", age_s, 100, "joe@a.test", (domain,), 1, 2, 30.0, reply)


def overview(*rows: Row, flow: Flow | None = None) -> Overview:
    return Overview(NOW, True, len(rows), list(rows), [("remote", 5)], (), flow)


def test_each_line_fits_and_says_what_there_is() -> None:
    flow = Flow(Counter(success=50, deferral=5), accepted=60, refused=5, messages=40, limited=2)
    rows = [row(number, number * 1000, f"{'x' * number}.test", "\u00e4" * 90) for number in range(1, 40)]
    shown = list(lines(overview(*rows, flow=flow)))
    assert max(map(len, shown)) <= 80
    assert "queue   39 messages: 39 waiting" in shown[1]
    assert shown[2] == "ages    below 5 min 0, 5 min to 1 h 3, 1 h to 1 day 36, above 1 day 0"
    assert shown[4] == "flow    a minute, in 5 min: in 12.0, refused 1.0, limits hit 0.4, ended 8.0"
    assert shown[5] == "results a minute, in 5 min: success 10.0, deferral 1.0, failure 0.0"
    assert len(shown) <= 24


def test_an_empty_queue_without_a_log_is_no_fault() -> None:
    shown = list(lines(Overview(NOW, False, 0, [], [], (), None)))
    assert "DOES NOT RUN" in shown[0] and shown[1] == "queue   0 messages" and "no log" in shown[-1]


def test_the_flow_is_of_late_and_failures_are_safe(tmp_path: Path) -> None:
    def line(ago_s: int, text: str) -> str:
        return f"@{(1 << 62) + 10 + int(NOW) - ago_s:016x}00000000 {text}\n"

    (tmp_path / "current").write_text(
        "torn line"
        + line(10_000, "qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<b@c.test> to=<a@a.test> bytes=1 qp=2")
        + line(10, "qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<b@c.test> to=<a@a.test> bytes=1 qp=3")
        + line(9, "qmail-smtpd: refused ip=192.0.2.1 helo=c from=<b@c.test> to=<a@a.test> reason=451_limit_reached")
        + line(int(FLOW_S) + 9, "starting delivery 1: msg 5 to remote joe@b.test")
        + line(8, "delivery 1: failure: \x1b[2Jno_such_user/")
        + line(7, "alert: help")
    )
    flow = Flow()
    add_log(flow, str(tmp_path), NOW)
    add_log(flow, str(tmp_path / "missing"), NOW)
    assert (flow.accepted, flow.refused, flow.limited, flow.results) == (1, 1, 1, Counter(failure=1))
    assert [(each.result, each.who, each.text) for each in flow.failures] == [
        ("failure", "msg 5 joe@b.test", "?[2Jno such user"),
        ("alert", "", "alert: help"),
    ]


def in_app(
    look: Callable[[], Overview],
    order: Callable[[Request], tuple[dict[int, str], str]],
    script: Callable[[TopApp, Callable[..., Coroutine[None, None, None]]], Coroutine[None, None, None]],
) -> None:
    """Run the live view on a terminal of 80x24, and ``script`` in it."""

    async def run() -> None:
        app = TopApp(look, order, 3600)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await script(app, pilot.press)

    asyncio.run(run())


def text_of(app: TopApp, name: str) -> str:
    return str(app.query_one(name, Static).render())


def test_keys_give_orders_for_the_message_under_the_cursor_and_deletion_asks() -> None:
    asked: list[tuple[str, int]] = []

    def order(request: Request) -> tuple[dict[int, str], str]:
        assert request.ids is not None
        asked.append((request.do, request.ids[0]))
        return {request.ids[0]: "done"}, ""

    async def script(app: TopApp, press: Callable[..., Coroutine[None, None, None]]) -> None:
        assert app.query_one(DataTable).row_count == 3
        await press("h", "down", "t", "d")
        assert asked == [("hold", 7), ("retry", 8)]
        assert "press d again" in text_of(app, "#failures")
        await press("d", "down", "d", "up", "d")
        assert asked[2:] == [("delete", 8)]  # of another message it is asked again
        assert "press d again" in text_of(app, "#failures")

    in_app(lambda: overview(row(7, 300), row(8, 200), row(9, 100, reply="[red]x[/")), order, script)


def test_trouble_is_shown_and_the_view_goes_on() -> None:
    broken = [False]

    def look() -> Overview:
        if broken[0]:
            raise QueueError("qmail-send did not answer")
        return overview(row(7))

    def order(request: Request) -> tuple[dict[int, str], str]:
        raise QueueError("qmail-send does not take the order")

    async def script(app: TopApp, press: Callable[..., Coroutine[None, None, None]]) -> None:
        await press("h")
        assert "hold 7: qmail-send does not take the order" in text_of(app, "#failures")
        broken[0] = True
        app.refresh_all()
        assert "the queue cannot be read: qmail-send did not answer" in text_of(app, "#head")
        broken[0] = False
        app.refresh_all()
        assert "queue   1 messages" in text_of(app, "#head")

    in_app(look, order, script)
