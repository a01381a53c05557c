"""What the status page says of our domains in DNS."""

import time
from collections.abc import Iterator

from pyqmail.log.printer import duration
from pyqmail.look.dns_watch import DnsState
from pyqmail.look.web_page import table, text


def dns_part(state: DnsState | None) -> Iterator[str]:
    """When was looked, and what is amiss; all that was found is folded away. Nothing where nobody looks."""
    if state is None:
        return
    yield "<h2>Our domains in DNS</h2>"
    if state.error:
        yield f"<p>{text(state.error)}</p>"
        return
    if not state.at:
        yield "<p>The first look is under way.</p>"
        return
    amiss = [(about, check, found) for about, check, good, found in state.findings if not good]
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.at))
    count = f"<b>{len(amiss)} of {len(state.findings)}</b>" if amiss else f"None of {len(state.findings)}"
    end = "" if state.whole else ", which was not enough for all of them"
    yield f"<p>{count} checks found something amiss. Looked at {moment}, in {duration(state.took_s)}{end}.</p>"
    yield from table("What others see amiss", ("about", "check", "found"), amiss, numbers=0)
    fine = [(about, check, found) for about, check, good, found in state.findings if good]
    yield from ("<details><summary>All that is well</summary>", *table("Well", ("about", "check", "found"), fine, 0))
    yield "</details>"
