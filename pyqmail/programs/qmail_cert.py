"""qmail-cert: the certificates that our servers show (qmail-cert(8)).

qmail-cert install [--name NAME] CHAIN KEY [CHAIN KEY]    put a chain and its key in place, or two of them
qmail-cert check CHAIN KEY [CHAIN KEY]                    the same checks, nothing is put in place
qmail-cert self-signed [NAME]                             make one that nobody vouches for, and put it in place
qmail-cert show                                           what is in place: who is shown it, and for how long it is good
"""

import os
import sys
from collections.abc import Mapping, Sequence

from pyqmail.admin.certificates import Shown, complaints, install, installed, join, look, self_signed, today
from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.formats.printable import visible
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.tcp.pem import PEM_MAX, PemError

DONE, WARNED, USAGE, TROUBLE = 0, 1, 100, 111


class Misuse(Exception):
    """The command line is none."""


def read(path: bytes) -> bytes:
    """The file at ``path``, of any owner. Raises PemError and OSError."""
    with open(path, "rb") as file:
        data = file.read(PEM_MAX + 1)
    if len(data) > PEM_MAX:
        raise PemError(f"{os.fsdecode(path)}: larger than {PEM_MAX} bytes")
    return data


def read_pairs(paths: Sequence[bytes]) -> bytes:
    """Chains and keys from files, as one PEM. Raises Misuse, PemError and OSError."""
    if len(paths) not in (2, 4):
        raise Misuse
    return join([(read(chain), read(key)) for chain, key in zip(paths[::2], paths[1::2], strict=True)])


def names_of(home: str, name: str) -> list[str]:
    """Which names a certificate should have: ``name``, or for the default one control/me. Raises ControlUnreadable."""
    me = Control(home).me()
    return [name] if name else [me.decode("ascii", "replace").lower()] if me else []


def line(shown: Shown) -> str:
    """One certificate for people."""
    left = shown.days_left(today())
    until = f"{shown.ends:%Y-%m-%d}"
    return f"{shown.key}, for {', '.join(shown.names) or 'no name'}, by {shown.issuer}, good until {until}: {left} days"


def report(what: str, all_shown: Sequence[Shown], names: Sequence[str]) -> int:
    """Say what is shown and what would bite; the exit code."""
    code = DONE
    for shown in all_shown:
        print(f"{what}: {line(shown)}")
        for complaint in complaints(shown, names, today()):
            print(f"{what}: {complaint}", file=sys.stderr)
            code = WARNED
    return code


def run_install(home: str, words: list[bytes]) -> int:
    """qmail-cert install."""
    name = ""
    if words[:1] == [b"--name"] and len(words) > 1:
        name, words = words[1].decode("ascii", "replace").lower(), words[2:]
    return put(home, read_pairs(words), name)


def run_self_signed(home: str, words: list[bytes]) -> int:
    """qmail-cert self-signed."""
    names = [word.decode("ascii", "replace").lower() for word in words] or names_of(home, "")
    if len(names) > 1:
        raise Misuse
    if os.path.lexists(f"{home}/control/servercert.pem"):
        raise PemError(f"{home}/control/servercert.pem is there already")
    return put(home, self_signed(names[0] if names else "localhost"), "")


def put(home: str, pem: bytes, name: str) -> int:
    """Install what is shown to clients that ask for ``name``, and say what it is. Raises PemError and OSError."""
    accounts = accounts_of(home)
    path = install(home, pem, name, accounts.uid_daemon, accounts.gid_nofiles)
    return report(path, look(pem), names_of(home, name))


def accounts_of(home: str) -> Accounts:
    """Whose the files are to be. Raises PemError and ControlUnreadable."""
    try:
        return read_accounts(home)
    except AccountMissing as error:
        raise PemError(str(error)) from None


def why(error: Exception) -> str:
    """What went wrong with a file that is named already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def run_check(home: str, words: list[bytes]) -> int:
    """qmail-cert check."""
    return report(os.fsdecode(words[0]) if words else "", look(read_pairs(words)), names_of(home, ""))


def run_show(home: str, words: list[bytes]) -> int:
    """qmail-cert show."""
    if words:
        raise Misuse
    code = DONE
    found = installed(home)
    if not found:
        print(f"no {home}/control/servercert.pem: no server offers TLS")
    accounts = accounts_of(home)
    for each in found:
        what = visible(os.fsencode(each.name)) or "every other name"
        try:
            code = max(code, report(what, each.read(), names_of(home, each.name)))
            for trouble in each.out_of_reach(accounts):
                print(f"{what}: {trouble}", file=sys.stderr)
                code = WARNED
        except (PemError, OSError) as error:
            print(f"{what}: {visible(os.fsencode(each.path))}: {why(error)}", file=sys.stderr)
            code = WARNED
    return code


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 1 where something would bite; 100 for a bad call; 111 where nothing was done."""
    home = home_of(environ)
    commands = {b"install": run_install, b"self-signed": run_self_signed, b"check": run_check, b"show": run_show}
    try:
        if len(argv) < 2 or argv[1] not in commands:
            raise Misuse
        return commands[argv[1]](home, list(argv[2:]))
    except Misuse:
        print((__doc__ or "").partition("\n\n")[2].rstrip(), file=sys.stderr)
        return USAGE
    except (PemError, ControlUnreadable, OSError) as error:
        print(f"qmail-cert: {error}", file=sys.stderr)
        return TROUBLE
    finally:
        sys.stdout.flush()
