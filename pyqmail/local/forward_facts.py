"""What a delivery by qmail-local knows of the facts of its message, for what it forwards (qmail-command(8))."""

import os

from pyqmail.control import Control, ControlUnreadable
from pyqmail.formats.facts import NO_FACTS, FactsError, RecipientFacts, parse_facts
from pyqmail.intake.client import FACTS
from pyqmail.intake.resend import WISHES
from pyqmail.policy import wishes
from pyqmail.policy.forwards import how_it_travels, wishes_for
from pyqmail.policy.routing import read_routing
from pyqmail.protocol.spawn import Command
from pyqmail.spool.facts import beside


def facts_variables(home: str, command: Command, message: int) -> dict[bytes, bytes]:
    """QMAILFACTS and QMAILDSN of a delivery of the open ``message``. Raises OSError."""
    try:
        facts = parse_facts(beside(message, f"{home}/queue/pyqmail/facts/{os.fsdecode(command.message)}"))
    except FactsError:
        facts = NO_FACTS
    found = {FACTS: how_it_travels(facts, command.sender)}
    if facts.asks_for_notices:
        control = Control(home)
        try:
            places = wishes.place(facts, read_routing(control, control.me()))
        except ControlUnreadable as error:
            raise OSError(str(error)) from error
        said = wishes.by_address(places, "local").get(command.recipient)
        found[WISHES] = wishes_for(facts, said or RecipientFacts(command.recipient), command.sender)
    return {name: value for name, value in found.items() if value}
