"""What qmail-lspawn and qmail-local would do with the address: its account, its .qmail file, where that forwards to."""

import os

from pyqmail.admin.explain.verdict import DEFERRED, DELIVERABLE, REFUSED, Verdict, reported, say
from pyqmail.control import read_knobs
from pyqmail.exits import SpawnExit
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats import dotqmail
from pyqmail.formats.printable import visible
from pyqmail.local import passwd
from pyqmail.local.instructions import Arguments, Usage, check_home, read_instructions
from pyqmail.local.outlook import Outlook, default_delivery, identity, judge_lines, surroundings
from pyqmail.local.program_forwards import Forward
from pyqmail.local.suspicions import Suspicion
from pyqmail.policy.accounts import Accounts, read_accounts
from pyqmail.policy.users import Assignment, UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.send.controls import read_controls


def explain_local(home: str, address: bytes, sender: bytes) -> None:
    """What qmail-lspawn and qmail-local do. Raises Verdict."""
    accounts, knobs = read_accounts(home), read_knobs(home)
    local, _, domain = address.rpartition(b"@")
    if not local:
        raise Verdict(DELIVERABLE, "an empty local part: qmail-lspawn throws the message away and says success")
    assignment = find_assignment(home, accounts, knobs.break_char, local)
    if assignment.uid == 0:
        raise reported(SpawnExit.ROOT)
    who = (assignment.user, assignment.homedir, local, assignment.dash, assignment.ext, domain)
    say("qmail-local", f"runs as uid {assignment.uid}, gid {assignment.gid} in {visible(assignment.homedir)}")
    try:
        arguments = Arguments((*who, sender, default_delivery(home)), describe=True)
    except Usage:
        raise Verdict(REFUSED, f"qmail-local does not take {visible(assignment.homedir)!r} for a home") from None
    with identity(accounts, assignment.uid, assignment.gid):
        try:
            os.chdir(assignment.homedir)
            wrong, forwards = explain_dotqmail(arguments, knobs.patrn, home)
        except OSError as error:
            raise Verdict(DEFERRED, f"the home {visible(assignment.homedir)}: {error.strerror}") from error
        except MailFailure as failure:
            code = REFUSED if isinstance(failure, PermanentFailure) else DEFERRED
            raise Verdict(code, visible(failure.text)) from failure
        finally:
            os.chdir("/")
    raise conclude(Outlook(home, accounts, read_controls(home).routing), address, wrong, forwards)


def find_assignment(home: str, accounts: Accounts, break_char: bytes, local: bytes) -> Assignment:
    """The account of ``local`` by users/cdb, else by the password file. Raises Verdict."""
    try:
        record = UsersDatabase(home, accounts).find(local)
        if record is not None:
            say("users/cdb", f"{visible(local)} is assigned")
        else:
            say("users/cdb", f"has nothing for {visible(local)}")
            with identity(accounts, accounts.uid_passwd, accounts.gid_nofiles):
                record = passwd.find_user(local, break_char)
                say("passwd", "has an account for it" if record else "has no account for it: alias takes it")
                if record is None:
                    record = passwd.find_alias(accounts.alias_name, local)
    except UsersTrouble:
        raise reported(SpawnExit.CDB) from None
    except passwd.LookupTrouble as trouble:
        raise reported(trouble.code) from None
    assignment = parse_assignment(record)
    if assignment is None:
        raise reported(SpawnExit.USAGE)
    say("account", f"{visible(assignment.user)}, extension {visible(assignment.dash + assignment.ext)!r}")
    return assignment


def explain_dotqmail(arguments: Arguments, forbidden: int, home: str) -> tuple[list[Suspicion], list[Forward]]:
    """The .qmail file in the current directory: what is wrong with its lines, and the forwards. Raises MailFailure."""
    check_home(True, forbidden)
    for name, _default in dotqmail.candidates(arguments.dash, arguments.ext):
        found = os.path.lexists(name)
        say(visible(name), "is there" if found else "is not there")
        if found:
            break
    instructions = read_instructions(arguments, forbidden)
    if instructions.data == arguments.default_delivery:
        say("instructions", "the default delivery")
    if instructions.default is not None:
        say("DEFAULT", visible(instructions.default) or "(empty)")
    wrong: list[Suspicion] = []
    forwards: list[Forward] = []
    environ = surroundings(arguments, instructions.default, home)
    for kind, argument, suspicion, onwards in judge_lines(instructions, environ, home):
        say(
            kind.decode(),
            visible(argument) + (f" ({visible(os.fsencode(suspicion.text))})" if suspicion is not None else ""),
        )
        if suspicion is not None:
            where = f"{visible(argument)}: " if argument else ""
            wrong.append(Suspicion(suspicion.code, where + suspicion.text))
        forwards += onwards
        for onward in onwards if kind != dotqmail.FORWARD else ():
            say("onward", visible(onward.address) + ("" if onward.sure else " (perhaps)"))
    return wrong, forwards


def conclude(outlook: Outlook, address: bytes, wrong: list[Suspicion], forwards: list[Forward]) -> Verdict:
    """The verdict on the lines, and on where they certainly forward to."""
    for forward in forwards:
        for suspicion in outlook.follow(forward.address, (address.lower(),)):
            say("forward", f"{visible(forward.address)}: {visible(os.fsencode(suspicion.text))}")
            if suspicion.sure and forward.sure:
                wrong.append(suspicion)
    for code in (DEFERRED, REFUSED):
        found = [suspicion.text for suspicion in wrong if suspicion.code == code]
        if found:
            return Verdict(code, visible(os.fsencode("; ".join(found))))
    return Verdict(DELIVERABLE, "by the instructions above")
