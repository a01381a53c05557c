"""qmail-vuser: mail users who are no users of the system (qmail-vuser(8)).

qmail-vuser add-domain DOMAIN [USER]        qmail-vuser remove-domain [--mail] DOMAIN
qmail-vuser add [--apop] ADDRESS [FORWARD...]
qmail-vuser passwd [--apop] ADDRESS         the password: asked for, or the first line of standard input
qmail-vuser forward ADDRESS [FORWARD...]
qmail-vuser alias ADDRESS TARGET...
qmail-vuser remove [--mail] ADDRESS
qmail-vuser default DOMAIN [TARGET...]
qmail-vuser list [DOMAIN]
"""

import os
from collections.abc import Callable, Mapping, Sequence

from pyqmail.admin.domain_orders import DomainOrders
from pyqmail.admin.user_orders import UserOrders
from pyqmail.admin.virtual_domains import VuserTrouble
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.login.virtual_users import VirtualUnreadable
from pyqmail.policy.accounts import AccountMissing
from pyqmail.system import files

DONE, REFUSED, USAGE, TROUBLE = 0, 1, 100, 111


class Misuse(Exception):
    """The command line is none."""


# name: the method, and the fewest and most words after it
DOMAIN_ORDERS: dict[str, tuple[Callable[[DomainOrders, list[bytes]], None], int, int]] = {
    "add-domain": (DomainOrders.add_domain, 1, 2),
    "remove-domain": (DomainOrders.remove_domain, 1, 1),
    "default": (DomainOrders.default, 1, 1000),
    "list": (DomainOrders.list, 0, 1),
}
USER_ORDERS: dict[str, tuple[Callable[[UserOrders, list[bytes]], None], int, int]] = {
    "add": (UserOrders.add, 1, 1000),
    "passwd": (UserOrders.passwd, 1, 1),
    "forward": (UserOrders.forward, 1, 1000),
    "alias": (UserOrders.alias, 2, 1000),
    "remove": (UserOrders.remove, 1, 1),
}
OPTIONS = {"--mail": ("remove", "remove-domain"), "--apop": ("add", "passwd")}


def run(words: list[bytes], home: str) -> None:
    """Do what ``words`` say. Raises Misuse, VuserTrouble, VirtualUnreadable, OSError and what reading controls does."""
    command = os.fsdecode(words[0]) if words else ""
    options = frozenset(os.fsdecode(word) for word in words[1:] if word.startswith(b"--"))
    rest = [word for word in words[1:] if not word.startswith(b"--")]
    if any(command not in OPTIONS.get(option, ()) for option in options):
        raise Misuse
    mail, apop = "--mail" in options, "--apop" in options
    if command in DOMAIN_ORDERS:
        on_domain, fewest, most = DOMAIN_ORDERS[command]
        _check_number(rest, fewest, most)
        on_domain(DomainOrders(home, mail=mail), rest)
    elif command in USER_ORDERS:
        on_user, fewest, most = USER_ORDERS[command]
        _check_number(rest, fewest, most)
        on_user(UserOrders(home, mail=mail, apop=apop), rest)
    else:
        raise Misuse


def _check_number(words: list[bytes], fewest: int, most: int) -> None:
    if not fewest <= len(words) <= most:
        raise Misuse


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 1 when it cannot be done as ordered, 100 for misuse, 111 for trouble; nothing has changed but with 0."""
    try:
        run(list(argv[1:]), home_of(environ))
        return DONE
    except Misuse:
        files.write_all(2, (__doc__ or "").partition("\n\n")[2].encode())
        return USAGE
    except VuserTrouble as trouble:
        code, text = REFUSED, str(trouble)
    except (AccountMissing, ControlUnreadable) as trouble:
        code, text = TROUBLE, str(trouble)
    except VirtualUnreadable as trouble:
        code, text = TROUBLE, f"users/virtual: {trouble}"
    except OSError as error:
        code, text = TROUBLE, f"{error.filename or ''}: {error.strerror or error}"
    files.write_all(2, f"qmail-vuser: {text}\n".encode("utf-8", "surrogateescape"))
    return code
