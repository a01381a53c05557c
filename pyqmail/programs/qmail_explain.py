"""qmail-explain: what would become of mail for an address, rule by rule, by the programs' own code (qmail-explain(8)).

    qmail-explain ADDRESS [--from IP] [--sender ADDRESS] [--rules FILE]

With --from it begins with the connection of a client from there, else with a message that is queued already. Nothing
is sent or written. 0: deliverable. 100: refused, or it would bounce. 111: it would wait, or that cannot be known.
"""

import ipaddress
import os
import stat
from collections.abc import Mapping, Sequence

from pyqmail.admin.supervision import missing
from pyqmail.control import Control, ControlUnreadable, home_of, read_knobs
from pyqmail.exits import SpawnExit
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats import dotqmail
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.printable import visible
from pyqmail.formats.report import local_report
from pyqmail.incoming.checks import CHECKS
from pyqmail.incoming.recipient_check import RecipientCheck
from pyqmail.incoming.relaying import Relaying, size_limit
from pyqmail.local import passwd
from pyqmail.local.instructions import Arguments, Usage, check_home, read_instructions
from pyqmail.local.outlook import Outlook, default_delivery, identity, judge_lines
from pyqmail.local.suspicions import Suspicion
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.policy.classify import classify, domain_keys
from pyqmail.policy.users import Assignment, UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.protocol.dns import format_address
from pyqmail.remote import tcpto
from pyqmail.remote.candidates import find_candidates
from pyqmail.remote.controls import read_controls as read_remote_controls
from pyqmail.remote.routes import find_route, route_keys
from pyqmail.send.controls import read_controls
from pyqmail.spool.layout import Layout
from pyqmail.system.files import write_all
from pyqmail.tcp.tcprules import decide

DELIVERABLE, REFUSED, DEFERRED = 0, 100, 111
USAGE = b"qmail-explain: usage: qmail-explain ADDRESS [--from IP] [--sender ADDRESS] [--rules FILE]\n"
RULES = b"/etc/tcp.smtp.cdb"
VERDICTS = {DELIVERABLE: "deliverable", REFUSED: "refused", DEFERRED: "deferred"}


class Verdict(Exception):
    """The end of the explanation; ``code`` is the exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def say(what: str, text: str) -> None:
    """One rule and what it says."""
    write_all(1, f"{what + ':':<16}{text}\n".encode())


class Question:
    """The command line."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.ip: bytes | None = None
        self.sender = b""
        self.rules = RULES
        addresses = []
        rest = iter(words)
        for word in rest:
            if word in (b"--from", b"--sender", b"--rules"):
                value = next(rest, None)
                if value is None:
                    raise ValueError
                if word == b"--from":
                    self.ip = str(ipaddress.ip_address(value.decode("ascii"))).encode()
                elif word == b"--sender":
                    self.sender = value
                else:
                    self.rules = value
            elif word.startswith(b"--"):
                raise ValueError
            else:
                addresses.append(word)
        if len(addresses) != 1 or not addresses[0]:
            raise ValueError
        self.address = addresses[0]


# The session


def explain_session(home: str, question: Question) -> bytes:
    """What tcpserver and qmail-smtpd say; the recipient that goes into the queue. Raises Verdict."""
    assert question.ip is not None
    variables = explain_rules(question.rules, question.ip)
    say("checks", ", ".join(check.name for check in CHECKS))
    control = Control(home)
    relaying = Relaying(control)
    try:
        if relaying.bad_sender(question.sender):
            say("badmailfrom", f"lists {visible(question.sender)}")
            raise Verdict(REFUSED, "qmail-smtpd refuses each recipient of this sender (553)")
        say("badmailfrom", f"does not list <{visible(question.sender)}>")
        say("databytes", str(size_limit(control, variables) or "no limit"))
        relay = variables.get(b"RELAYCLIENT")
        if relay is not None:
            say(
                "RELAYCLIENT",
                "set: every recipient is accepted" + (f", with {visible(relay)} appended" if relay else ""),
            )
            return question.address + relay
        if relaying.rcpthosts_missing:
            say("rcpthosts", "missing: only me and locals count")
        if not relaying.accepts(question.address):
            say("rcpthosts", "does not list the domain, nor does morercpthosts.cdb")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (553)")
        say("rcpthosts", "accepts the domain")
    finally:
        relaying.close()
    explain_recipient(home, control, question.address, variables)
    return question.address


def explain_rules(path: bytes, ip: bytes) -> dict[bytes, bytes]:
    """What the rules file of tcpserver says: the variables that it sets. Raises Verdict."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        say("tcp rules", f"{visible(path)} is missing: without -x everybody may connect, with it nobody")
        return {}
    except OSError as error:
        raise Verdict(DEFERRED, f"{visible(path)}: {error.strerror}: tcpserver drops every connection") from error
    try:
        decision = decide(Cdb(fd).get, ip, None, None)
    except (CdbCorrupt, OSError):
        raise Verdict(DEFERRED, f"{visible(path)} is damaged: tcpserver drops every connection") from None
    finally:
        os.close(fd)
    found = "no rule" if decision.key is None else f"rule {visible(decision.key)!r}"
    settings = "".join(f', {visible(name)}="{visible(value)}"' for name, value in decision.variables)
    say("tcp rules", f"{found} of {visible(path)}: {'deny' if decision.deny else 'allow'}{settings}")
    if decision.deny:
        raise Verdict(REFUSED, "tcpserver closes the connection")
    return dict(decision.variables)


def explain_recipient(home: str, control: Control, recipient: bytes, variables: Mapping[bytes, bytes]) -> None:
    """Whether qmail-smtpd believes that the recipient exists. Raises Verdict."""
    check = RecipientCheck(control, home, variables)
    try:
        if not check.exists(recipient):
            say("recipient", "does not exist here")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (550)")
        say("recipient", "is not known to be nobody's")
    finally:
        check.close()


# The queue


def explain_routing(home: str, recipient: bytes) -> tuple[str, bytes]:
    """The channel that qmail-send chooses, and the address as that channel gets it."""
    routing = read_controls(home).routing
    channel, address = classify(recipient, routing)
    domain = address.rpartition(b"@")[2] if channel == "remote" else recipient.rpartition(b"@")[2]
    if b"@" not in recipient:
        say("envnoathost", f"no domain: {visible(routing.default_host)} is presumed")
        recipient += b"@" + routing.default_host
        domain = recipient.rpartition(b"@")[2]
    if channel == "local" and address.rpartition(b"@")[2].lower() in routing.locals:
        if address != recipient:
            say("percenthack", f"makes it {visible(address)}")
        say("locals", f"lists {visible(address.rpartition(b'@')[2])}")
        return channel, address
    say("locals", f"does not list {visible(domain)}")
    for key in (recipient.lower(), *domain_keys(domain.lower())):
        prepend = routing.virtual.get(key)
        if prepend is not None:
            what = f"prepends {visible(prepend)}-" if prepend else "makes an exception: not virtual"
            say("virtualdomains", f"the line for {visible(key)!r} {what}")
            break
    else:
        say("virtualdomains", "has no line for it")
    return channel, address


# The local channel


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


def reported(status: int) -> Verdict:
    """The verdict behind an exit code that qmail-lspawn reports on."""
    report = local_report(status, b"")
    code = {b"K": DELIVERABLE, b"D": REFUSED}.get(report[:1], DEFERRED)
    return Verdict(code, visible(report[1:].strip()))


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


def explain_dotqmail(arguments: Arguments, forbidden: int, home: str) -> tuple[list[Suspicion], list[bytes]]:
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
    forwards: list[bytes] = []
    for kind, argument, suspicion in judge_lines(instructions, arguments.domain, home):
        say(
            kind.decode(),
            visible(argument) + (f" ({visible(os.fsencode(suspicion.text))})" if suspicion is not None else ""),
        )
        if suspicion is not None:
            where = f"{visible(argument)}: " if argument else ""
            wrong.append(Suspicion(suspicion.code, where + suspicion.text))
        if kind == dotqmail.FORWARD:
            forwards.append(argument)
    return wrong, forwards


def conclude(outlook: Outlook, address: bytes, wrong: list[Suspicion], forwards: list[bytes]) -> Verdict:
    """The verdict on the lines, and on where they forward to."""
    for forward in forwards:
        for suspicion in outlook.follow(forward, (address.lower(),)):
            say("forward", f"{visible(forward)}: {visible(os.fsencode(suspicion.text))}")
            wrong.append(suspicion)
    for code in (DEFERRED, REFUSED):
        found = [suspicion.text for suspicion in wrong if suspicion.code == code]
        if found:
            return Verdict(code, visible(os.fsencode("; ".join(found))))
    return Verdict(DELIVERABLE, "by the instructions above")


# The remote channel


def explain_remote(home: str, address: bytes) -> None:
    """What qmail-remote does, up to the connection. Raises Verdict."""
    controls = read_remote_controls(home)
    host = address.rpartition(b"@")[2]
    route = find_route(controls.routes, host)
    key = next((key for key in route_keys(host.lower()) if key in controls.routes), None)
    if key is None:
        say("smtproutes", "has no line for it: MX")
    elif route is None:
        say("smtproutes", f"the line for {visible(key)!r} is empty: MX")
    else:
        say("smtproutes", f"the line for {visible(key)!r}: {visible(route.relay)} port {route.port}")
    table, blocked, count = Layout(home, 23).tcpto, 0, 0
    try:
        for candidate in find_candidates(host, route, controls):
            count += 1
            note = ""
            if tcpto_blocked(table, candidate.packed):
                blocked += 1
                note = ", which timed out lately and is not tried for now"
            say("server", f"{format_address(candidate.packed)}, preference {candidate.preference}{note}")
    except MailFailure as failure:
        code = REFUSED if isinstance(failure, PermanentFailure) else DEFERRED
        raise Verdict(code, visible(failure.text)) from failure
    if count == blocked:
        raise Verdict(DEFERRED, "every server timed out lately (qmail-tcpok clears that)")
    raise Verdict(DELIVERABLE, "to the first of the servers above that takes a connection")


def tcpto_blocked(table: str, packed: bytes) -> bool:
    """Whether qmail-remote leaves the address out for now; who may not look does not know."""
    try:
        mode = os.stat(table).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and tcpto.check(table, packed) is tcpto.Verdict.BLOCKED


def explain(home: str, question: Question) -> None:
    """The whole way. Always raises: Verdict, ControlUnreadable, AccountMissing or OSError."""
    for helper in missing(home):
        say(helper.name.decode(), f"does not run: {helper.loss}")
    recipient = question.address if question.ip is None else explain_session(home, question)
    channel, address = explain_routing(home, recipient)
    say("channel", f"{channel}, as {visible(address)}")
    if channel == "local":
        explain_local(home, address, question.sender)
    explain_remote(home, address)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The verdict as an exit code; 100 also for wrong words."""
    try:
        question = Question(argv[1:])
    except ValueError:
        write_all(2, USAGE)
        return REFUSED
    try:
        explain(home_of(environ), question)
    except Verdict as verdict:
        say("verdict", f"{VERDICTS[verdict.code]}: {verdict}")
        return verdict.code
    except (ControlUnreadable, AccountMissing) as trouble:
        say("verdict", f"deferred: {trouble}")
    except PermissionError as error:
        say("verdict", f"not known: {error.filename}: only root may look there")
    return DEFERRED
