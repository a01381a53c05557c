"""The counters and the state of qmail-send at one moment, for who asks and for the file of control/metricsfile."""

from pyqmail.send.means import Means
from pyqmail.send.messages import Messages
from pyqmail.send.metrics import Gauges, format_metrics


def measure(means: Means, messages: Messages, started_at: float) -> bytes:
    """All of it, as Prometheus' text format."""
    now = means.clock()
    channels = messages.channels
    book = messages.orders.book
    due = {name: channel.schedule.next_time() for name, channel in channels.items()}
    gauges = Gauges(
        now=now,
        started_at=started_at,
        running={name: channel.deliveries.running for name, channel in channels.items()},
        limit={name: channel.deliveries.limit for name, channel in channels.items()},
        waiting={name: len(channel.schedule) + len(book.parked[name]) for name, channel in channels.items()},
        lag_s={name: max(0.0, now - when) if when else 0.0 for name, when in due.items()},
        preprocessing=len(messages.todo),
        held=len(book.orders.held),
        loading=messages.loading.under_way,
    )
    return format_metrics(means.counters, gauges)
