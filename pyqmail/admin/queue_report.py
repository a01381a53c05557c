"""A message of the queue as qmail-q shows it: lines for people, or an object of JSON (qmail-q(8))."""

import time
from collections.abc import Iterator

from pyqmail.formats.logline import safe
from pyqmail.send.control_client import Live
from pyqmail.spool import queue_view
from pyqmail.spool.queue_view import ChannelView, MessageView


def text_of(data: bytes) -> str:
    """Bytes as JSON has them."""
    return data.decode("utf-8", "surrogateescape")


def shown(data: bytes) -> str:
    """A stranger's bytes for a terminal."""
    return safe(data).decode("ascii")


def _state(view: MessageView, live: Live) -> str:
    number = view.number
    if view.new:
        return "new"
    if number in live.endings:
        return "ending"
    if any((name, number) in live.delivering for name in queue_view.CHANNELS):
        return "delivering"
    if number in live.held:
        return "held"
    return "waiting" if view.channels else "finished"


def _due(channel: ChannelView, number: int, live: Live) -> int | None:
    """When the next attempt is due; None while one runs, or where only a running qmail-send would know."""
    if channel.name == "new" or (channel.name, number) in live.delivering:
        return None
    return live.times[channel.name].get(number) if live.running else channel.due


def message_json(view: MessageView, live: Live, *, recipients: bool) -> dict[str, object]:
    """A message as an object of JSON, with each recipient if asked for."""
    channels: dict[str, object] = {}
    for channel in view.channels:
        entry: dict[str, object] = {
            "next_attempt": _due(channel, view.number, live),
            "attempts": channel.attempts,
            "last_attempt": channel.tried,
            "recipients_left": len(channel.left),
            "last_reply": _last_reply(channel),
        }
        if recipients:
            entry["recipients"] = [
                {"address": text_of(each.address), "done": each.done, "last_reply": text_of(each.reply) or None}
                for each in channel.recipients
            ]
        channels[channel.name] = entry
    return {
        "id": view.number,
        "state": _state(view, live),
        "sender": text_of(view.sender),
        "bytes": view.size,
        "queued": view.queued,
        "failures": view.bouncing,
        "channels": channels,
    }


def _last_reply(channel: ChannelView) -> str | None:
    replies = [each.reply for each in channel.left if each.reply]
    return text_of(replies[-1]) if replies else None


def _date(seconds: int | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def message_lines(view: MessageView, live: Live, *, recipients: bool) -> Iterator[str]:
    """A message as lines for people, with each recipient if asked for."""
    bouncing = "  some recipients have failed" if view.bouncing else ""
    yield (
        f"#{view.number}  {_state(view, live)}  {view.size} bytes  queued {_date(view.queued)}"
        f"  <{shown(view.sender)}>{bouncing}\n"
    )
    for channel in view.channels:
        left = channel.left
        many = f"{len(left)} recipients" if len(left) != 1 else f"<{shown(left[0].address)}>"
        due = _due(channel, view.number, live)
        line = f"  {channel.name}  {many}  attempts {channel.attempts}  next {_date(due)}"
        reply = _last_reply(channel)
        yield line + (f"  last reply: {reply}\n" if reply else "\n")
        for each in channel.recipients if recipients else ():
            done = "done" if each.done else "left"
            reply = f"  last reply: {shown(each.reply)}" if each.reply else ""
            yield f"    {done}  <{shown(each.address)}>{reply}\n"
