"""qmail-metrics: what the mail server does, for Prometheus and as a page (qmail-metrics(8)).

    qmail-metrics [--unit PATTERN] [--no-dns] [LOG ...]

It starts as root, listens, forks a watcher as qmails for the queue, one as qmaill for the logs, one as qmaild for the
certificates and one that looks at DNS, and is qmailm from then on.
"""

import argparse
import grp
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.look.apart import Apart, Lost
from pyqmail.look.board import Board
from pyqmail.look.dns_watch import DnsWatch
from pyqmail.look.metrics_app import MetricsApp
from pyqmail.look.status_app import StatusApp
from pyqmail.look.watchers import CertificateWatcher, LogWatcher, QueueWatcher
from pyqmail.look.web import Way
from pyqmail.look.web_listen import DEFAULT, TOKEN, CannotListen, Certificate, listen, read_token
from pyqmail.look.web_login import Logins
from pyqmail.look.web_server import Server
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts, uid_of_own
from pyqmail.system.process import become, reset_signals, set_title
from pyqmail.system.readiness import tell_ready

JOURNAL_GROUP = "systemd-journal"  # who may read the journal


def parse_options(words: list[str]) -> argparse.Namespace:
    """The command line; --help and mistakes end the program by themselves."""
    parser = argparse.ArgumentParser("qmail-metrics", description="a mail server's figures and status page")
    parser.add_argument("--unit", default="", metavar="PATTERN", help="read the journal of these systemd units")
    parser.add_argument("--no-dns", action="store_true", help="do not look at our domains in DNS")
    parser.add_argument("logs", nargs="*", metavar="LOG", help="directories or files (default: all in /var/log)")
    return parser.parse_args(words)


def start_watchers(home: str, accounts: Accounts, options: argparse.Namespace) -> Board:
    """Fork the watchers. Raises OSError and ControlUnreadable."""

    def as_user(uid: int, gid: int, *more: int) -> Callable[[], None]:
        return partial(become, uid, gid, [gid, *more]) if os.geteuid() == 0 else lambda: None

    log_groups = [group.gr_gid for group in grp.getgrall() if group.gr_name == JOURNAL_GROUP]
    return Board(
        Apart(
            "qmail-metrics: queue",
            as_user(accounts.uid_send, accounts.gid_qmail),
            partial(QueueWatcher, home, orders=os.path.exists(f"{home}/control/{TOKEN}")),
        ),
        Apart(
            "qmail-metrics: logs",
            as_user(accounts.uid_log, accounts.gid_nofiles, *log_groups),
            partial(LogWatcher, options.logs, options.unit),
        ),
        Apart(
            "qmail-metrics: certificates",
            as_user(accounts.uid_daemon, accounts.gid_nofiles),
            partial(CertificateWatcher, home),
        ),
        None if options.no_dns else DnsWatch(home),
    )


def serve(options: argparse.Namespace, home: str, environ: Mapping[bytes, bytes]) -> None:
    """Serve until a signal. Raises CannotListen, OSError, AccountMissing and ControlUnreadable."""
    control = Control(home)
    accounts = read_accounts(home)
    uid = uid_of_own(home, accounts, "conf-metrics")
    board = start_watchers(home, accounts, options)
    listening = [listen(line, uid) for line in control.lines("metricslisten") or DEFAULT]
    host = os.fsdecode(control.me() or b"this host")
    names = {host.lower(), socket.gethostname().lower()}
    token = read_token(home)
    by_tls = any(each.way is Way.TLS for each in listening)
    if by_tls and not token:
        raise CannotListen("control/metricslisten: who comes by TLS is asked for control/metricstoken: there is none")
    context = Certificate(home, _say).context if by_tls else None
    if os.geteuid() == 0:
        become(uid, accounts.gid_nofiles, [accounts.gid_nofiles])
    board.watch(end)
    tell_ready(environ)
    logins = Logins(token)
    status = StatusApp(host, board, board.queue, logins, _say)
    app = MetricsApp(board, status, frozenset(names), logins)
    Server(listening, context, app).run()


def end(lost: Lost) -> None:
    """Without a watcher there is nothing to serve: whoever supervises starts anew."""
    os._exit(_complain(str(lost)))


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until TERM; 100 for wrong arguments; 111 when it cannot start or a watcher has ended, with a line."""
    reset_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client hangs up
    set_title("qmail-metrics")
    try:
        serve(parse_options([os.fsdecode(word) for word in argv[1:]]), home_of(environ), environ)
    except (CannotListen, AccountMissing, ControlUnreadable) as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except SystemExit as end:
        return 100 if end.code else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _complain(text: str) -> int:
    _say(text)
    return 111


def _say(text: str) -> None:
    sys.stderr.write(f"qmail-metrics: {text}\n")
    sys.stderr.flush()
