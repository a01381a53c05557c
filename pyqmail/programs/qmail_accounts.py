"""qmail-accounts: compile the accounts of a database to the files that route mail here (qmail-accounts(8)).

qmail-accounts sync [--force]       ask for all of them now, and put them in force
"""

from collections.abc import Mapping, Sequence

from pyqmail.admin.accounts.sync import sync
from pyqmail.admin.databases import NotMade
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.login.account_settings import AccountsTrouble
from pyqmail.policy.accounts import AccountMissing
from pyqmail.system.files import write_all

DONE, USAGE, TROUBLE = 0, 100, 111


def say(text: str) -> None:
    """A line on descriptor 2."""
    write_all(2, f"qmail-accounts: {text}\n".encode("utf-8", "backslashreplace"))


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for a bad call; 111 where the last state stays."""
    if argv[1:] not in ([b"sync"], [b"sync", b"--force"]):
        write_all(2, (__doc__ or "").partition("\n\n")[2].encode())
        return USAGE
    try:
        state = sync(home_of(environ), say, force=b"--force" in argv)
    except (AccountsTrouble, AccountMissing, ControlUnreadable, NotMade) as trouble:
        say(str(trouble))
        return TROUBLE
    except OSError as error:
        say(f"{error.filename or ''}: {error.strerror or error}")
        return TROUBLE
    counts = f"{state.users} users, {state.aliases} targets of aliases, {state.senders} senders"
    write_all(1, f"{len(state.domains)} domains, {counts}\n".encode())
    return DONE
