"""How an explanation goes on, a line for each rule, and how it ends (qmail-explain(8))."""

import json

from pyqmail.formats.printable import visible
from pyqmail.formats.report import local_report
from pyqmail.system.files import write_all

DELIVERABLE, REFUSED, DEFERRED = 0, 100, 111
VERDICTS = {DELIVERABLE: "deliverable", REFUSED: "refused", DEFERRED: "deferred"}


class Verdict(Exception):
    """The end of the explanation; ``code`` is the exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def reported(status: int) -> Verdict:
    """The verdict behind an exit code that qmail-lspawn reports on."""
    report = local_report(status, b"")
    code = {b"K": DELIVERABLE, b"D": REFUSED}.get(report[:1], DEFERRED)
    return Verdict(code, visible(report[1:].strip()))


class Form:
    """How lines are written: for people, or each as a JSON object with ``rule`` and ``text``."""

    as_json = False


def say(what: str, text: str) -> None:
    """One rule and what it says."""
    line = json.dumps({"rule": what, "text": text}) if Form.as_json else f"{what + ':':<16}{text}"
    write_all(1, f"{line}\n".encode())
