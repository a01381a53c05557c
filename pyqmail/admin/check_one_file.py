"""What would bite in one control file by itself: its mode, its name, and values that do not mean what they seem to."""

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator

from pyqmail.admin.control_files import BY_NAME, ControlFile, Form
from pyqmail.control import Control, ControlUnreadable, parse_integer, parse_line, parse_lines
from pyqmail.policy.patterns import PatternList
from pyqmail.remote.controls import SECRETS
from pyqmail.remote.routes import without_password
from pyqmail.state import store_url

EMPTY_BITES = {
    "locals": "empty: nothing is local, not even me",
    "rcpthosts": "empty: no domain at all is accepted by SMTP",
    "me": "empty: the host has no name",
    "smtpgreeting": "empty: the greeting names no host",
    "helohost": "empty: HELO names no host",
}
WILDCARDS = {
    "locals": "there are no wildcards here: virtualdomains has them",
    "rcpthosts": ".example.org is all below example.org",
    "morercpthosts": ".example.org is all below example.org",
    "virtualdomains": ".example.org is all below example.org, and an empty name everything",
    "authsenders": ".example.org is all below example.org, and an empty name every sender",
    "smtproutes": ".example.org is all below example.org, and an empty name everything",
}
PATTERNS = ("badhelo", "badhelonorelay", "badmailfrom", "badmailfromnorelay", "badrcptto", "badrcpttonorelay")
ADDRESSES = (*PATTERNS, "validrcptto")
URLS = ("shadow",)
BLANKS_IN_VALUES = (
    *("authd", "domainbindings", "dnsservers", "dnsbllist", "filterargs", "metricslisten", "recipients", "spamfilter"),
    *URLS,
)
HIDING = {**dict.fromkeys(SECRETS, without_password), store_url.NAME: store_url.without_password}
PRIVATE = ("servercert.pem", "metricscert.pem")
OLD_KEYS = re.compile(r"(?:rsa|dh)\d+\.pem")  # of the TLS patch for netqmail, and its heirs
EDITORS_LEFTOVERS = ("~", ".bak", ".swp", ".orig", ".dpkg-old", ".dpkg-new", ".rpmsave", ".tmp")


def file_modes(control: Control, names: list[str]) -> Iterator[str]:
    """Files that a program cannot read, or that others may write."""
    for name in ["", *names]:
        path = f"{control.directory}/{name}".rstrip("/")
        shown = f"control/{name}".rstrip("/")
        try:
            status = os.stat(path)
        except OSError as error:
            yield f"{shown}: {error.strerror}: the programs that read it fail for now"
            continue
        form = BY_NAME[name].form if name in BY_NAME else None
        if name in PRIVATE:
            continue  # for its own user only: who reads it says what is wrong
        secret = name in HIDING and _has_password(path, HIDING[name])
        if secret and status.st_mode & stat.S_IRWXO:
            harm = "mail that needs them waits" if name in SECRETS else "it is not used"
            yield f"{shown}: mode {stat.S_IMODE(status.st_mode):04o}: has passwords: {harm}"
        needed = (
            0o400
            if form is Form.SECRET
            else 0o440
            if name in SECRETS or secret
            else 0o555
            if not name or form is Form.DIRECTORY
            else 0o444
        )
        if status.st_mode & needed != needed and name in ("", *BY_NAME):
            yield f"{shown}: mode {stat.S_IMODE(status.st_mode):04o}: not every program can read it, and those fail"
        if status.st_mode & 0o022:
            yield f"{shown}: mode {stat.S_IMODE(status.st_mode):04o}: others than its owner may change it"
        if form is not None and form is not Form.DIRECTORY and not stat.S_ISREG(status.st_mode):
            yield f"{shown}: is not a file: the programs that read it fail for now"


def unknown_name(name: str) -> Iterator[str]:
    """A name that no program asks for."""
    if OLD_KEYS.fullmatch(name):
        yield f"control/{name}: ignored: a temporary key of the TLS 1.0 age; the library makes its own"
        return
    if name.endswith(EDITORS_LEFTOVERS):
        yield f"control/{name}: no program reads it (left over by an editor?)"
        return
    near = difflib.get_close_matches(name, BY_NAME, 1, 0.75)
    yield f"control/{name}: no program reads it" + (f"; did you mean {near[0]}?" if near else "")


def misread_values(control: Control, entry: ControlFile) -> Iterator[str]:
    """Bytes that do not mean what they seem to mean."""
    shown = f"control/{entry.name}"
    if entry.form in (Form.PEM, Form.SECRET, Form.DIRECTORY):
        return
    try:
        data = control.read(entry.name)
    except ControlUnreadable as trouble:
        yield f"{trouble}: the programs that read it fail for now"
        return
    if data is None or entry.form is Form.CDB:
        return
    if b"\r" in data:
        yield f"{shown}: has CR at line ends (edited under DOS?): they are part of the values, and nothing matches"
    if b"\0" in data:
        yield f"{shown}: has NUL bytes"
    if entry.name == "defaultdelivery":
        return
    if entry.name in PATTERNS:
        for number, line, why in PatternList(data).complaints:
            yield f"{shown}: line {number}: {show_value(line)}: lists nothing: {why}"
        return
    if entry.form in (Form.LIST, Form.MAP):
        yield from _list_syntax(shown, entry, data)
    else:
        yield from _line_syntax(shown, entry, data)
    if not data.strip() and entry.name in EMPTY_BITES:
        yield f"{shown}: {EMPTY_BITES[entry.name]}"


def _line_syntax(shown: str, entry: ControlFile, data: bytes) -> Iterator[str]:
    value = parse_line(data)
    if entry.form is Form.INTEGER:
        number = parse_integer(data)
        if number is None:
            yield f"{shown}: does not start with a number: the default, {entry.default}, counts"
        elif b"%d" % number != value:
            yield f"{shown}: {show_value(value)} counts as {number}"
    elif value.startswith(b"#"):
        yield f"{shown}: a # is part of the value in a one-line file"
    elif value[:1] in (b" ", b"\t") or (
        b" " in value and entry.name not in ("smtpgreeting", "bouncefrom", "spfexp", "spfrules")
    ):
        yield f"{shown}: has blanks in its value"
    if any(line.strip() and not line.startswith(b"#") for line in data.split(b"\n")[1:]):
        yield f"{shown}: only the first line counts"


def _list_syntax(shown: str, entry: ControlFile, data: bytes) -> Iterator[str]:
    seen: dict[bytes, bytes] = {}
    for value in shown_lines(entry, data):
        key, colon, rest = value.partition(b":")
        if value[:1] in (b" ", b"\t"):
            yield f"{shown}: {show_value(value)}: starts with a blank, which is part of it"
        elif b"#" in value or (b" " in value and entry.name not in BLANKS_IN_VALUES):
            yield f"{shown}: {show_value(value)}: a comment after a value is part of it"
        elif entry.form is Form.MAP and not colon:
            yield f"{shown}: {show_value(value)}: has no colon, so that it is ignored"
        elif entry.form is Form.LIST and b"@" in value and entry.name not in (*ADDRESSES, *URLS, "dnsservers"):
            yield f"{shown}: {show_value(value)}: is an address, where domains stand"
        elif b"*" in key and entry.name in WILDCARDS:
            yield f"{shown}: {show_value(key)}: a * stands for itself: {WILDCARDS[entry.name]}"
        elif key.startswith(b".") and entry.name == "locals":
            yield f"{shown}: {show_value(key)}: there are no wildcards here: virtualdomains has them"
        what = key.lower() if entry.form is Form.MAP else value.lower()
        if entry.form is Form.MAP and what in seen and seen[what] != rest:
            yield f"{shown}: {show_value(key)}: stands there twice, and the last line wins"
        seen[what] = rest


def shown_lines(entry: ControlFile, data: bytes) -> tuple[bytes, ...]:
    """The lines of a list file as they may be shown: without passwords."""
    lines = parse_lines(data)
    hide = HIDING.get(entry.name)
    return tuple(map(hide, lines)) if hide else lines


def _has_password(path: str, hide: Callable[[bytes], bytes]) -> bool:
    try:
        with open(path, "rb") as file:
            return any(hide(line) != line for line in parse_lines(file.read()))
    except OSError:
        return False


def show_value(value: bytes) -> str:
    """A value in a line for people."""
    return repr(value.decode("ascii", "backslashreplace"))
