"""Messages, deliveries and sessions of a log as lines for people (qmail-log(8))."""

import sys
import time
from collections import Counter

from pyqmail.log.joiner import Delivery, Item, Message, Session, Trouble, latest

COLORS = {"success": "32", "accepted": "32", "failure": "31", "refused": "31", "deferral": "33", "alert": "31"}


def clean(text: str) -> str:
    """``text`` without what is no character to print: JSON can hold anything."""
    return "".join(char if char.isprintable() else "?" for char in text)


class Printer:
    """Writes lines to standard output."""

    def __init__(self, *, color: bool, utc: bool, at_once: bool) -> None:
        self._color = color
        self._at_once = at_once
        self._clock = time.gmtime if utc else time.localtime

    def show(self, when: float | None, item: Item) -> None:
        """One line."""
        match item:
            case Delivery():
                self._line(when, item.result, self._delivery(item))
            case Message():
                self._line(when, *self._message(item))
            case Session():
                self._line(when, item.result, f"{item.ip} <{item.sender}> to {item.rest}")
            case Trouble():
                self._line(when, "alert", item.text)

    def _line(self, when: float | None, result: str, text: str) -> None:
        moment = "-" * 19 if when is None else time.strftime("%Y-%m-%d %H:%M:%S", self._clock(when))
        word = f"{result:<8}"
        if self._color and result in COLORS:
            word = f"\x1b[{COLORS[result]}m{word}\x1b[0m"
        sys.stdout.write(f"{moment} {word} {clean(text)}\n")
        if self._at_once:
            sys.stdout.flush()

    def _delivery(self, item: Delivery) -> str:
        message = item.message
        tail = f": {item.text.replace('_', ' ')}" if item.text else ""
        return f"msg {message.number} <{message.sender}> to {item.channel} {item.recipient}{took(item)}{tail}"

    def _message(self, item: Message) -> tuple[str, str]:
        last = latest(item)
        counts = Counter(delivery.result for delivery in last.values())
        result = next((name for name in ("failure", "deferral", "success") if counts[name]), "end")
        who = ", ".join(
            f"{delivery.recipient}" + ("" if delivery.result == "success" else f" ({delivery.result})")
            for delivery in last.values()
        )
        attempts = len(item.deliveries)
        more = f", {attempts} attempts" if attempts > len(last) else ""
        bounced = ", bounced" if item.bounced else ""
        ends = [delivery.ended for delivery in item.deliveries if delivery.ended is not None]
        lasted = f" in {duration(max(ends) - item.began)}" if ends and item.began is not None else ""
        text = f"msg {item.number} qp {item.qp} <{item.sender}> {item.size} bytes to {who or 'nobody'}"
        return result, text + lasted + more + bounced


def took(item: Delivery) -> str:
    """How long an attempt lasted."""
    if item.started is None or item.ended is None:
        return ""
    return f" in {duration(item.ended - item.started)}"


def duration(seconds: float) -> str:
    """``seconds`` in a unit that fits."""
    for limit, unit, name in ((1, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit != 1 else f"{seconds:.1f} s"
    return f"{seconds / 86400:.1f} d"
