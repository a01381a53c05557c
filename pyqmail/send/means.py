"""What every part of qmail-send works with."""

from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.log.sinks import Sink
from pyqmail.send.background import Background
from pyqmail.send.controls import Controls
from pyqmail.send.message_facts import MessageFacts
from pyqmail.send.metrics import Counters
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.send.shadow_link import ShadowLink


@dataclass(slots=True)
class Means:
    """One for the whole program. ``controls`` are those in force; ``exiting``: nothing more is started."""

    loop: Loop
    layout: Layout
    log: Sink
    background: Background
    history: History
    facts: MessageFacts
    counters: Counters
    controls: Controls
    clock: Callable[[], float]  # seconds since the epoch
    shadow: "ShadowLink | None" = None  # where messages have copies elsewhere
    exiting: bool = False
