"""qmailctl VERB: the admin's hand on all services at once, with the verbs of Life with qmail (qmailctl(8))."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.verbs import VERBS, Host
from pyqmail.control import home_of
from pyqmail.system.files import write_all

FAILED, USAGE = 111, 100
HELP = b"""qmailctl VERB
  start      start every service
  stop       stop every service; deliveries in progress end first; a qmail-queued that qmail-start left behind, too
  restart    stop what takes mail in, restart qmail-send, start again
  stat       what runs and of which build, what does not, and how much is queued (also: status)
  pause      suspend every service without ending it
  cont       let paused services go on
  doqueue    try every queued message now (also: alrm, flush)
  reload     qmail-send reads its control files again (also: hup)
  queue      list the queued messages
  cdb        rebuild tcp.smtp.cdb, morercpthosts.cdb and users/cdb from their sources
  help       this text
"""
ALIASES = {"status": "stat", "alrm": "doqueue", "flush": "doqueue", "hup": "reload", "continue": "cont"}


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0 when all was done, 100 for no such verb, 111 when something failed, with a line on descriptor 2."""
    word = os.fsdecode(argv[1]) if len(argv) == 2 else ""
    if word in ("help", "--help", "-h"):
        write_all(1, HELP)
        return 0
    verb = VERBS.get(ALIASES.get(word, word))
    if verb is None:
        write_all(2, HELP)
        return USAGE
    host = Host(home_of(environ), environ)
    verb(host)
    return FAILED if host.failed else 0
