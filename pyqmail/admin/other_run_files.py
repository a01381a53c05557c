"""Run files and tcpserver's rules of another qmail: which variables and arguments mean something here (moving_in)."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence

from pyqmail.admin.limits import MINIMUM, OURS, limits_in
from pyqmail.admin.moving_in import Finding, OtherTree, control_findings, read_text
from pyqmail.admin.other_trees import FOREIGN, TAKEN, VARIABLES, Fate, found_in
from pyqmail.admin.other_trees import OURS as OUR_PROGRAMS
from pyqmail.options import UsageError, parse_options
from pyqmail.tcp.command_line import LETTERS
from pyqmail.tcp.tcprules import BadRule, parse_rules

SERVICES = ("/service", "/etc/service", "/var/service")
USUAL_RULES = ("/etc/tcp.smtp", "/etc/tcp.submission", "/etc/tcp.smtps", "/etc/tcp.pop3")
SUBSTITUTION = re.compile(r"\$\([^()]*\)|`[^`]*`")
ASSIGNMENT = re.compile(r"([A-Z_][A-Z0-9_]*)=(.*)", re.S)
RULES = re.compile(r"\s-x\s*([^\s\"']+)\.cdb\b")
RULE_VARIABLE = re.compile(rb",([A-Za-z_][A-Za-z0-9_]*)=(.)(.*?)\2", re.S)
RBLSMTPD = b"bBcCRt:r:a:"
WORDS = {"tcpserver": LETTERS, "rblsmtpd": RBLSMTPD}
BLIND = "qmail-smtpd refuses AUTH behind it (538), as it sees no TLS: use tcpserver and SMTPS=1, or FORCETLS=0"
SETUID = "the checker runs as the user of tcpserver -u: it must be setuid as there, or control/authd takes its place"
NOT_READ = "no program here reads it"


def everything(tree: OtherTree) -> Iterator[Finding]:
    """The whole report: control files, run files, rules. Raises NoTree."""
    yield from control_findings(tree)
    rules = [tree.at(path) for path in USUAL_RULES if os.path.exists(tree.at(path))]
    rules += [
        f"{tree.home}/{name}" for name in ("control/tcp.smtp", "etc/tcp.smtp") if os.path.exists(f"{tree.home}/{name}")
    ]
    for path in run_files(tree):
        try:
            text = read_text(path).decode("utf-8", "replace")
        except OSError as error:
            yield Finding(tree.shown(path), "", Fate.NOT_SUPPORTED, f"it cannot be read: {error.strerror}")
            continue
        if OURS.search(text) or any(name in text for name in FOREIGN):
            yield from run_file_findings(tree.shown(path), text)
            rules += [tree.at(name) for name in RULES.findall(text)]
    for path in dict.fromkeys(rules):
        yield from rules_findings(tree.shown(path), path)


def run_files(tree: OtherTree) -> Iterator[str]:
    """rc and the run files of services, their logs' not, each once."""
    places = [f"{tree.home}/service", f"{tree.home}/supervise", *(tree.root + place for place in SERVICES)]
    seen = set()
    for path in [f"{tree.home}/rc", *(f"{place}/{name}/run" for place in places for name in _listed(place))]:
        real = os.path.realpath(path)
        if real not in seen and os.path.lexists(path):
            seen.add(real)
            yield path


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def run_file_findings(where: str, text: str) -> Iterator[Finding]:
    """What becomes of the variables, the programs, their arguments and the memory limits of one run file."""
    lines = [line for line in text.replace("\\\n", " ").split("\n") if not line.lstrip().startswith("#")]
    words = [word for line in lines for word in split(line)]
    set_here = {match[1]: match[2] for word in words if (match := ASSIGNMENT.fullmatch(word))}
    for name, value in set_here.items():
        yield variable(where, name, value, own=bool(re.search(rf"\$\{{?{name}\b", text)))
    for words_of_limit, size in limits_in(text):
        small = size < MINIMUM
        fate = Fate.NOT_SUPPORTED if small else Fate.TAKEN
        yield Finding(where, words_of_limit, fate, f"Python needs at least {MINIMUM} bytes" if small else "")
    yield from programs(where, words, set_here)


def split(line: str) -> list[str]:
    """The words of a line of shell; what it substitutes is one word without a meaning."""
    try:
        return shlex.split(SUBSTITUTION.sub("0", line), comments=True)
    except ValueError:
        return line.split()


def variable(where: str, name: str, value: str, *, own: bool = False) -> Finding:
    """What becomes of a variable. ``own``: the script itself uses it."""
    if name in TAKEN:
        return _value(where, name, value)
    known = found_in(VARIABLES, name)
    if known is not None:
        return Finding(where, name, *known)
    return Finding(where, name, *((Fate.IGNORED, "only the script uses it") if own else (Fate.NOT_SUPPORTED, NOT_READ)))


def _value(where: str, name: str, value: str) -> Finding:
    """A variable that is read here; a few values mean something else than there."""
    if name in ("SMTPS", "DISABLETLS", "DROP_PRE_GREET", "FORCEAUTHMAILFROM") and value == "0":
        return Finding(where, f"{name}=0", Fate.TAKEN, "0 is off here")
    if name == "FORCETLS" and value == "":
        return Finding(where, name, Fate.TAKEN, "only 0 lets passwords through in clear")
    if name == "UCSPITLS":
        sense = {"-": "DISABLETLS=1", "!": "no mail without TLS", "@": "no mail without a client's certificate"}
        said = sense.get(value, "STARTTLS, if there is a servercert.pem")
        return Finding(where, f"UCSPITLS={value}", Fate.TAKEN_AS, f"{said}: TLS is qmail-smtpd's own, not sslserver's")
    return Finding(where, name, Fate.TAKEN)


def programs(where: str, words: Sequence[str], set_here: dict[str, str]) -> Iterator[Finding]:
    """Our programs on the command lines, with their arguments, and others' in front of them."""
    names = [os.path.basename(word) for word in words]
    for at, name in enumerate(names):
        if name in FOREIGN:
            yield Finding(where, name, Fate.IGNORED, FOREIGN[name])
        elif name in OUR_PROGRAMS and (name == words[at] or "/bin/" in words[at]):
            yield Finding(where, name, Fate.TAKEN)
            yield from _arguments(where, name, words[at + 1 :], set_here)
    if "sslserver" in names and "qmail-smtpd" in names and "SMTPAUTH" in set_here:
        inside = "UCSPITLS" not in set_here and set_here.get("FORCETLS") != "0"
        if inside:
            yield Finding(where, "sslserver", Fate.NOT_SUPPORTED, BLIND)


def _arguments(where: str, name: str, words: Sequence[str], set_here: dict[str, str]) -> Iterator[Finding]:
    if name in WORDS:
        yield from _options(where, name, words)
    elif name == "qmail-smtpd":
        yield from _checker(where, words, set_here)


def _options(where: str, name: str, words: Sequence[str]) -> Iterator[Finding]:
    """Options of tcpserver and rblsmtpd, each letter."""
    try:
        found, _ = parse_options([os.fsencode(word) for word in words], WORDS[name])
    except UsageError as error:
        yield Finding(where, name, Fate.NOT_SUPPORTED, f"{error.text.decode('ascii', 'replace')}: it would not start")
        return
    for letter, _ in found:
        yield Finding(where, f"{name} -{letter.decode('ascii')}", Fate.TAKEN)


def _checker(where: str, words: Sequence[str], set_here: dict[str, str]) -> Iterator[Finding]:
    """What stands behind qmail-smtpd: [host] checker program."""
    line = list(words[: next((at for at, word in enumerate(words) if re.match(r"[|&;<>]|\d>", word)), len(words))])
    if not line:
        return
    shown = " ".join(line)
    if "SMTPAUTH" not in set_here:
        yield Finding(
            where, shown, Fate.IGNORED, "without SMTPAUTH there is no AUTH, unless a rule of tcpserver sets it"
        )
    elif len(line) < 2:
        yield Finding(where, shown, Fate.NOT_SUPPORTED, "a checker needs a program behind it, as true")
    else:
        yield Finding(where, shown, Fate.TAKEN, SETUID)


def rules_findings(where: str, path: str) -> Iterator[Finding]:
    """The rules in the source of a database, and the variables that they set."""
    try:
        data = read_text(path)
    except OSError as error:
        yield Finding(where, "", Fate.NOT_SUPPORTED, f"its source cannot be read: {error.strerror}")
        return
    yield Finding(where, "", Fate.TAKEN)
    seen = set()
    for line in data.split(b"\n"):
        try:
            list(parse_rules(line))
        except BadRule:
            yield Finding(
                where, line.decode("ascii", "backslashreplace"), Fate.NOT_SUPPORTED, "tcprules refuses the line"
            )
            continue
        if line.startswith(b"#") or b":" not in line:
            continue
        for raw, _, value in RULE_VARIABLE.findall(line):
            name = raw.decode("ascii")
            if (name, value) not in seen:
                seen.add((name, value))
                yield variable(where, name, value.decode("ascii", "backslashreplace"))
