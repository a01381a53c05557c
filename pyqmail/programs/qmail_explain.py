"""qmail-explain: what would become of mail for an address, rule by rule, by the programs' own code (qmail-explain(8)).

    qmail-explain ADDRESS [--from IP] [--sender ADDRESS] [--helo NAME] [--rules FILE] [--json]
    qmail-explain --from IP --mail-from ADDRESS [--helo NAME] [--message FILE] [--rules FILE] [--json]

With --from it begins with the connection of a client from there, else with a message that is queued already. The second
form tells what SPF, DKIM and DMARC say of a sender. Nothing is sent or written. 0: deliverable. 100: refused, or it
would bounce. 111: it would wait, or that cannot be known.
"""

from collections.abc import Mapping, Sequence

from pyqmail.admin.explain.question import Question, explain
from pyqmail.admin.explain.verdict import DEFERRED, REFUSED, VERDICTS, Verdict, say
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing
from pyqmail.system.files import write_all

USAGE = b"""\
qmail-explain: usage: qmail-explain ADDRESS [--from IP] [--sender ADDRESS] [--helo NAME] [--rules FILE] [--json]
qmail-explain --from IP --mail-from ADDRESS [--helo NAME] [--message FILE] [--rules FILE] [--json]
"""


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The verdict as an exit code; 100 also for wrong words."""
    try:
        question = Question(argv[1:])
    except ValueError:
        write_all(2, USAGE)
        return REFUSED
    try:
        if question.mail_from is not None:
            from pyqmail.admin.explain.sender import explain_sender  # cryptography

            explain_sender(home_of(environ), question)
        explain(home_of(environ), question)
    except Verdict as verdict:
        say("verdict", f"{VERDICTS[verdict.code]}: {verdict}")
        return verdict.code
    except (ControlUnreadable, AccountMissing) as trouble:
        say("verdict", f"deferred: {trouble}")
    except PermissionError as error:
        say("verdict", f"not known: {error.filename}: only root may look there")
    return DEFERRED
