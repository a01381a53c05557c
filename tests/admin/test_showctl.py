"""qmail-showctl: the original's words for every file (recorded from notqmail 1.09), and what --check finds."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyqmail.admin.control_files import BY_NAME, CONTROL_FILES, ORIGINAL
from pyqmail.admin.limits import limits_in, small_limits
from pyqmail.formats.cdb import write_cdb
from tests.admin.machine import Machine
from tests.remote.test_signatures import PEM

READS = re.compile(
    r"(?:control\w*|reader)\.(?:line|line_or_me|integer|lines|mapping|bytes_limit|limits)\(\s*\"([a-z0-9-]+)\""
)
ROOT = Path(__file__).resolve().parents[2]
RECORDED = sorted((Path(__file__).parent / "showctl").iterdir())
GOOD = {
    "me": "mx.example.org\n",
    "locals": "mx.example.org\nexample.org\n",
    "rcpthosts": "mx.example.org\nexample.org\n",
    "defaultdomain": "example.org\n",
    "plusdomain": "example.org\n",
}


def showctl(home: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run bin/qmail-showctl for ``home``."""
    command = [str(ROOT / "bin" / "qmail-showctl"), *options]
    return subprocess.run(command, env={"QMAIL_HOME": str(home)}, capture_output=True, timeout=60)


def write(home: Path, files: Mapping[str, str | bytes]) -> None:
    """Control files of mode 0644."""
    for name, text in files.items():
        path = home / "control" / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o644)


@pytest.fixture
def home(single_user_home: Path) -> Path:
    """A tree that --check is content with."""
    shutil.rmtree(single_user_home / "control")
    single_user_home.joinpath("control").mkdir(mode=0o755)
    uid, gid = os.geteuid() or 65534, os.getegid() or 65534
    write(single_user_home, {**GOOD, "conf-users": f"{uid}\n" * 8, "conf-groups": f"{gid}\n" * 2})
    return single_user_home


@pytest.mark.contract(
    "control 1.1", "control 1.2", "control 1.3", "control 1.4", "control 1.5", "control 1.6",
    "control 3.1", "control 3.2", "control 3.3", "control 3.4", "control 7.4", "control 7.9",
)  # fmt: skip
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_it_prints_what_notqmail_prints(case: Path, tmp_path: Path) -> None:
    home = tmp_path / "qmail"
    shutil.copytree(case / "control", home / "control")
    if (home / "control" / "morercpthosts.cdb").exists():
        os.utime(home / "control" / "morercpthosts", (1000, 1000))
    result = showctl(home)
    assert result.returncode == 0, result.stderr
    facts, blank, rest = result.stdout.partition(b"\n\n")
    assert facts.split(b"\n")[:5] == [
        b"qmail home directory: %s." % os.fsencode(home),
        b"user-ext delimiter: -.",
        b"paternalism (in decimal): 2.",
        b"silent concurrency limit: 120.",
        b"subdirectory split: 23.",
    ]
    assert facts.split(b"\n")[5].startswith(b"user ids: ") and facts.split(b"\n")[6].startswith(b"group ids: ")
    expected = (case / "expected.txt").read_bytes().lstrip(b"\n")
    assert unordered(rest) == unordered(expected)


def unordered(text: bytes) -> tuple[bytes, list[bytes]]:
    """The paragraphs of known files, and those of unknown ones, whose order is the directory's."""
    known, unknown = [], []
    for paragraph in text.rstrip(b"\n").split(b"\n\n"):
        (unknown if b"no idea" in paragraph else known).append(paragraph)
    return b"\n\n".join(known), sorted(unknown)


@pytest.mark.contract("control 3.3")
def test_a_missing_rcpthosts_is_told_as_it_is_here(home: Path) -> None:
    (home / "control" / "rcpthosts").unlink()
    write(home, {"morercpthosts": "example.net\n"})
    text = showctl(home).stdout
    assert b"\nrcpthosts: (Default.) SMTP clients may send messages only to me and locals.\n" in text
    assert b"\nNo rcpthosts; doesn't matter that morercpthosts has example.net.\n" in text


def test_our_own_files_are_listed_where_they_exist_and_unknown_ones_are_flagged(home: Path) -> None:
    write(home, {"concurrencyincoming": "30\n", "spfnumber": "3\n"})
    text = showctl(home).stdout
    assert b"\nconcurrencyincoming: SMTP sessions at once: 30.\n" in text
    assert b"\nspfnumber: I have no idea what this file does.\n" in text
    assert b"\nconf-split: " not in text


def test_readers_says_who_reads_each_file_and_when(home: Path) -> None:
    text = showctl(home, "--readers").stdout.decode()
    assert (
        "helohost: (Default.) SMTP client HELO host name is mx.example.org.\n  Read by qmail-remote, for each" in text
    )
    assert text.count("  Read by ") == len(ORIGINAL) + 2


@pytest.mark.contract("control 3.4")
def test_without_a_home_or_a_control_directory_it_exits_111(tmp_path: Path) -> None:
    result = showctl(tmp_path / "nowhere")
    assert result.returncode == 111
    assert result.stdout.endswith(b"Oops! Unable to chdir to %s.\n" % os.fsencode(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    result = showctl(empty)
    assert result.returncode == 111
    assert result.stdout.endswith(b"Oops! Unable to chdir to control.\n")
    (empty / "control" / "me").mkdir(parents=True)
    result = showctl(empty)
    assert result.returncode == 111
    assert result.stdout.endswith(b"Oops! Trouble reading control/me.\n")


def test_other_words_are_refused(home: Path) -> None:
    result = showctl(home, "--chek")
    assert (result.returncode, result.stdout) == (100, b"")
    assert b"usage" in result.stderr


def test_every_control_file_that_a_program_reads_is_in_the_table() -> None:
    asked = set()
    for path in (ROOT / "pyqmail").rglob("*.py"):
        asked |= set(READS.findall(path.read_text()))
    assert asked - set(BY_NAME) == set()
    assert len(BY_NAME) == len(CONTROL_FILES)


# --check


def test_check_is_content_with_a_good_tree(home: Path) -> None:
    result = showctl(home, "--check")
    assert (result.returncode, result.stdout) == (0, b"")


BITES: list[tuple[str, dict[str, str | bytes | None], str]] = [
    ("rcpthosts missing", {"rcpthosts": None}, "control/rcpthosts: missing: by SMTP only me and locals are accepted"),
    ("rcpthosts empty", {"rcpthosts": ""}, "control/rcpthosts: empty: no domain at all"),
    ("locals empty", {"locals": ""}, "control/locals: empty: nothing is local, not even me"),
    ("me missing", {"me": None}, "control/me: missing: qmail-smtpd and qmail-remote fail"),
    ("me short", {"me": "mx\n"}, "control/me: 'mx' is not a full name"),
    (
        "a domain local and virtual",
        {"virtualdomains": "Example.org:joe\n"},
        "control/virtualdomains: 'example.org' is in locals too",
    ),
    (
        "a virtual domain that is not accepted",
        {"virtualdomains": "shop.example:joe\n"},
        "control/rcpthosts: 'shop.example' is delivered here but not accepted",
    ),
    ("CR", {"rcpthosts": "mx.example.org\r\nexample.org\r\n"}, "control/rcpthosts: has CR at line ends"),
    ("NUL", {"badmailfrom": b"a@b\0c\n"}, "control/badmailfrom: has NUL bytes"),
    ("a comment after a value", {"locals": "mx.example.org # us\n"}, "'mx.example.org # us': a comment after a value"),
    ("a leading blank", {"locals": " mx.example.org\n"}, "' mx.example.org': starts with a blank"),
    ("a map without colon", {"smtproutes": "example.net relay\n"}, "control/smtproutes: "),
    (
        "a route without port",
        {"smtproutes": "example.net:relay:smtp\n"},
        "the route for 'example.net' has no usable port",
    ),
    (
        "a route to a socket that is none",
        {"smtproutes": "a.test:[127.0.0.1]:1/lmtp=/nonexistent\n"},
        "'a.test': '/nonexistent' is no socket, and mail waits",
    ),
    (
        "a limit that is none",
        {"remotelimits": "google.com:many:\n"},
        "control/remotelimits: a line is not set:connections:messages/seconds: qmail-remote defers everything",
    ),
    ("a source that is none", {"outgoingip": "192.0.2\n"}, "control/outgoingip: "),
    ("a key twice", {"smtproutes": "a.test:x\nA.test:y\n"}, "control/smtproutes: 'A.test': stands there twice"),
    (
        "no number",
        {"queuelifetime": "week\n"},
        "control/queuelifetime: does not start with a number: the default, 604800",
    ),
    ("half a number", {"databytes": "10M\n"}, "control/databytes: '10M' counts as 10"),
    ("a comment in a line file", {"helohost": "# our name\n"}, "control/helohost: a # is part of the value"),
    (
        "a second line",
        {"defaultdomain": "example.org\nexample.net\n"},
        "control/defaultdomain: only the first line counts",
    ),
    ("a wildcard", {"rcpthosts": "*.example.org\n"}, "'*.example.org': a * stands for itself: .example.org is all"),
    ("a wildcard route", {"smtproutes": "*:relay\n"}, "'*': a * stands for itself: .example.org is all"),
    ("a wildcard sender", {"badmailfrom": "*@spam.test\n"}, "line 1: '*@spam.test': lists nothing: nothing to repeat"),
    ("a local wildcard", {"locals": ".example.org\n"}, "'.example.org': there are no wildcards here"),
    ("an address among domains", {"rcpthosts": "joe@example.org\n"}, "'joe@example.org': is an address, where domains"),
    ("a concurrency too large", {"concurrencyremote": "500\n"}, "control/concurrencyremote: 500 is above the limit"),
    ("a concurrency of nothing", {"concurrencylocal": "0\n"}, "control/concurrencylocal: 0: nothing is delivered"),
    (
        "a Maildir without slash",
        {"defaultdelivery": "./Maildir\n"},
        "control/defaultdelivery: './Maildir': without a /",
    ),
    (
        "a misspelt name",
        {"rcpthost": "example.org\n"},
        "control/rcpthost: no program reads it; did you mean rcpthosts?",
    ),
    ("a temporary key", {"rsa2048.pem": "x\n"}, "control/rsa2048.pem: ignored: a temporary key"),
    ("an editor's copy", {"locals~": "example.org\n"}, "control/locals~: no program reads it (left over"),
    (
        "SRS without secrets",
        {"srs_domain": "srs.example.org\n"},
        "control/srs_secrets: there is no secret: forwards of",
    ),
    (
        "secrets of SRS that anybody can read",
        {"srs_domain": "srs.example.org\n", "srs_secrets": "x\n"},
        "control/srs_secrets: others than its owner may read it; chmod 0400: forwards of",
    ),
    ("an uncompiled morercpthosts", {"morercpthosts": "a.test\n"}, "control/morercpthosts: has no effect before"),
    ("a damaged cdb", {"morercpthosts.cdb": "x"}, "control/morercpthosts.cdb: damaged: qmail-smtpd answers 421"),
]


@pytest.mark.contract("control 7.1", "control 7.2", "control 7.3", "control 7.7", "control 7.8")
@pytest.mark.parametrize(("files", "line"), [row[1:] for row in BITES], ids=[row[0] for row in BITES])
def test_check_finds(home: Path, files: dict[str, str | bytes | None], line: str) -> None:
    write(home, {name: text for name, text in files.items() if text is not None})
    for name, text in files.items():
        if text is None:
            (home / "control" / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (home / "control").iterdir()}
    result = showctl(home, "--check")
    lines = result.stdout.decode().splitlines()
    assert result.returncode == 1
    assert any(found.startswith("qmail-showctl: warning: ") and line in found for found in lines), lines
    assert before == {path.name: path.stat().st_mtime_ns for path in (home / "control").iterdir()}


def test_check_finds_wrong_modes_and_directories_in_the_place_of_files(home: Path) -> None:
    (home / "control" / "locals").chmod(0o600)
    (home / "control" / "rcpthosts").chmod(0o666)
    (home / "control" / "smtproutes").mkdir(mode=0o755)
    lines = showctl(home, "--check").stdout.decode()
    assert "control/locals: mode 0600: not every program can read it" in lines
    assert "control/rcpthosts: mode 0666: others than its owner may change it" in lines
    assert "control/smtproutes: is not a file" in lines


def test_check_finds_what_keeps_bounces_of_forwarded_mail_away_and_shows_no_secret(home: Path) -> None:
    write(home, {"srs_domain": "srs.example.org\n", "srs_secrets": "hidden\n"})
    (home / "control" / "srs_secrets").chmod(0o400)
    os.chown(home / "control" / "srs_secrets", 12345, -1)
    lines = showctl(home, "--check").stdout.decode()
    assert "control/srs_secrets: is not alias's: bounces" in lines
    assert "'srs.example.org' is in neither virtualdomains nor locals" in lines
    assert "'srs.example.org' is not in rcpthosts" in lines
    assert "hidden" not in lines + showctl(home).stdout.decode()


def test_the_password_of_the_shared_store_is_not_shown_and_others_may_not_read_it(home: Path) -> None:
    write(home, {"statestore": "redis://:hidden@192.0.2.1\n"})
    shown, checked = showctl(home).stdout, showctl(home, "--check").stdout
    assert b"statestore: What is counted is shared by redis://:***@192.0.2.1." in shown
    assert b"control/statestore: mode 0644: has passwords: it is not used" in checked
    assert b"hidden" not in shown + checked


def test_check_finds_keys_that_sign_nothing_or_are_not_safe(home: Path) -> None:
    keys = home / "control/domainkeys"
    for name, mode in (("a.test/good", 0o640), ("a.test/shown", 0o644), ("b.test/root", 0o600), ("C.test/key", 0o660)):
        (keys / name).parent.mkdir(parents=True, exist_ok=True)
        (keys / name).write_bytes(PEM["e"])
        (keys / name).chmod(mode)
        os.chown(keys / name, 12345, os.getegid() if name == "b.test/root" else -1)
    (keys / "file").write_text("")
    (keys / "a.test/waits.off").write_text("")
    lines = showctl(home, "--check").stdout.decode()
    assert "control/domainkeys/a.test/shown: others can read it: mail of this domain waits" in lines
    assert "control/domainkeys/b.test/root: qmail-remote cannot read it" in lines
    assert "control/domainkeys/C.test: is not in lower case: it signs nothing" in lines
    assert "control/domainkeys/C.test/key: mode 0660: others than its owner may change it" in lines
    assert "control/domainkeys/file: is not a directory of keys" in lines
    assert "a.test/good: others" not in lines and "waits.off" not in lines


@pytest.mark.parametrize(
    "files",
    [
        {"shadow": "postgresql://pyqmail@db.example.org/pyqmail?sslmode=verify-full require\n"},
        {"shadow": "postgresql://pyqmail@db.example.org/pyqmail\n"},
        {"proxyhosts": "192.0.2.10\n10.0.0.0/8\n2001:db8::/32\n"},
        {"xferpeers": "mx1.example.org\nmx2.example.org:192.0.2.22\nmx3.example.org:[2001:db8::3]:2210\n"},
        {"authd": "dovecot:/run/dovecot/auth-client\n/usr/local/bin/checkpassword-ldap true\n"},
        {"domainbindings": "shop.example:192.0.2.7 2001:db8::7\n"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_check_is_content_with_what_the_examples_say(home: Path, files: dict[str, str]) -> None:
    write(home, files)
    assert showctl(home, "--check").stdout.decode() == ""


def test_check_finds_what_keeps_machines_apart(home: Path) -> None:
    write(
        home, {"proxyhosts": "192.0.2.10\nproxy.example.org\n", "xferpeers": "mx1.example.org\nmx2.example.org:a:0\n"}
    )
    said = {
        "postgresql://pyqmail:secret@db.example.org/pyqmail": "a password is not taken",
        "postgresql://pyqmail@db.example.org/pyqmail perhaps": "only one of the words require and prefer",
        "db.example.org": "postgresql://USER@HOST/DATABASE is wanted",
    }
    for text, found in said.items():
        write(home, {"shadow": text + "\n"})
        lines = showctl(home, "--check").stdout.decode()
        assert f"control/shadow: {found}" in lines and "secret" not in lines
    assert "control/proxyhosts: 'proxy.example.org': no address and no network" in lines
    assert "control/xferpeers: 'mx2.example.org:a:0': no NAME" in lines and "mx1" not in lines
    write(home, {"shadow": "postgresql://pyqmail@db.example.org/pyqmail\n", "shadowpassword": "secret\n"})
    assert "control/shadowpassword may be read by others" in showctl(home, "--check").stdout.decode()


def test_check_finds_users_that_are_not_compiled(home: Path) -> None:
    (home / "users").mkdir()
    assign = home / "users" / "assign"
    assign.write_text("=joe:joe:1000:1000:/home/joe:::\n.\n")
    assert b"users/assign: has no effect before qmail-newu is run" in showctl(home, "--check").stdout
    assign.write_text("=joe:joe:1000\n.\n")
    assert b"users/assign: has a line without its fields" in showctl(home, "--check").stdout
    (home / "users" / "cdb").write_bytes(b"short")
    assert b"users/cdb: damaged: all local mail waits" in showctl(home, "--check").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
def test_check_finds_that_the_systems_mail_bounces_and_files_that_are_not_obeyed() -> None:
    machine = Machine()
    try:
        machine.install(**GOOD)
        alias = machine.run("eval echo ~alias").stdout.strip()
        machine.run(f"rm -rf {alias} && mkdir -p {alias}")
        check = "/var/qmail/bin/qmail-showctl --check"
        found = machine.run(check, check=False).stdout
        for name in ("postmaster", "mailer-daemon", "root"):
            assert f"{alias}/.qmail-{name}: missing: mail for {name} bounces" in found
        machine.run(f"echo '&ann' >{alias}/.qmail-default && chmod 644 {alias}/.qmail-default")
        assert machine.run(check).stdout == ""
        machine.run(f"chmod 666 {alias}/.qmail-default")
        assert "writable by others, so that its mail waits" in machine.run(check, check=False).stdout
        machine.run(f"ln -s nowhere {alias}/.qmail-lost")
        assert f"{alias}/.qmail-lost: No such file or directory" in machine.run(check, check=False).stdout
        machine.run(f"chmod 600 {alias}/.qmail-default")
        assert "alias cannot read it, so that its mail waits" in machine.run(check, check=False).stdout
    finally:
        machine.close()


BAD_FILES = {
    ".qmail-directory": ("./no-such-directory/\n", "./no-such-directory/: is not there"),
    ".qmail-program": ("|/no/such/program\n", "/no/such/program: the program /no/such/program is not there"),
    ".qmail-blank": ("\n&ann\n", "the first line is blank"),
    ".qmail-include": (":include:/list\n", ":include:/list: says nothing that can be done"),
    ".qmail-loop-a": (
        "&loop-b@example.test\n",
        "loops: loop-b@example.test to loop-a@example.test",
    ),
    ".qmail-loop-b": ("&loop-a@example.test\n", ""),
    ".qmail-turns-a": (
        "|condredirect turns-b@example.test grep -q x\n",
        "turns-b@example.test to turns-a@example.test",
    ),
    ".qmail-turns-b": ("|forward turns-a@example.test\n", ""),
    ".qmail-made-default": ("|fastforward -d circle.cdb\n", "loops: made-b@example.test to made-a@example.test"),
    ".qmail-lost": ("&ann-nothing@example.test\n", "Sorry, no mailbox here by that name."),
    ".qmail-First": ("&ann\n", "is never obeyed: the name is written in small letters"),
    ".qmail-first.last": ("&ann\n", "is never obeyed: a dot of the address is a colon in the name"),
    ".qmail-list-*": ("&ann\n", "a * stands for itself"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
def test_both_checks_find_lines_that_defer_bounce_or_loop_and_no_others() -> None:
    machine = Machine()
    try:
        machine.install(**GOOD | {"locals": "example.test\n", "rcpthosts": "example.test\n"})
        home = machine.run("eval echo ~alias").stdout.strip()
        machine.run(f"rm -rf {home} && mkdir -p {home} && cd {home} && touch .qmail-a && rm .qmail-a")
        alias = machine.path(home)
        for name in ("postmaster", "mailer-daemon", "root", "ok"):
            (alias / f".qmail-{name}").write_text("\ufeff&ann # in charge\r\n")
        (alias / ".qmail-null").write_text("/dev/null\r\n")
        (alias / ".qmail-perhaps").write_text("|/no/such/program || true\n")
        check = "/var/qmail/bin/qmail-showctl --check"
        assert machine.run(check, check=False).stdout == ""
        for name, (text, _) in BAD_FILES.items():
            (alias / name).write_text(text)
        write_cdb(str(alias / "circle.cdb"), [(b":a@", b"&made-b@example.test\0"), (b":b@", b"&made-a@example.test\0")])
        machine.run(
            "su ann -c 'echo ann-f@example.test >/home/ann/.forward; echo \"&ann@example.test\" >/home/ann/.qmail-f'"
        )
        machine.path("/var/qmail/control/defaultdelivery").write_text("|dot-forward .forward\n./Maildir/\n")
        machine.run("su ann -c 'echo ./none/ >/home/ann/.qmail-x; echo \"|/no/\\x1b\" >/home/ann/.qmail-y'")
        for check in ("/var/qmail/bin/qmail-showctl --check", f"{ROOT}/bin/qmail-setup --check"):
            done = machine.run(check, check=False)
            lines = [line for line in done.stdout.splitlines() if ".qmail-" in line]
            for name, (_, complaint) in BAD_FILES.items():
                found = [line for line in lines if f"/{name}: " in line]
                assert not complaint or any(complaint in line for line in found), (name, lines)
            assert any("/home/ann/.forward: loops: ann" in line for line in lines + done.stdout.splitlines()), (
                done.stdout
            )
            assert any("/home/ann/.qmail-x: ./none/: is not there" in line for line in lines), lines
            assert not any(word in line for line in lines for word in (".qmail-ok", ".qmail-null", ".qmail-perhaps"))
            assert done.returncode == 1
    finally:
        machine.close()


# Memory limits


LIMITS = [
    ("exec softlimit -m 2000000 tcpserver 0 25 qmail-smtpd", [2000000]),
    ("exec /usr/local/bin/softlimit -m 2000000 \\\n  tcpserver -v 0 25 qmail-smtpd", [2000000]),
    ("exec softlimit -d 3000000 -o 20 qmail-start", [3000000]),
    ("exec chpst -m 4000000 qmail-queued", [4000000]),
    ("ulimit -v 20000\nexec qmail-send", [20480000]),
    ("[Service]\nExecStart=/var/qmail/bin/qmail-queued\nMemoryMax=32M\n", [33554432]),
    ("# softlimit -m 2000000\nexec tcpserver", []),
    ("exec softlimit -o 100 -p 40 tcpserver", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sizes"), LIMITS, ids=[row[0][:40] for row in LIMITS])
def test_memory_limits_are_recognised(text: str, sizes: list[int]) -> None:
    assert [size for _, size in limits_in(text)] == sizes


def test_a_small_limit_in_a_run_file_is_found_and_a_large_one_is_not(home: Path) -> None:
    for name, size in (("qmail-smtpd", 2000000), ("qmail-pop3d", 1 << 30)):
        (home / "service" / name).mkdir(parents=True)
        (home / "service" / name / "run").write_text(
            f"#!/bin/sh\nexec softlimit -m {size} \\\n tcpserver 0 25 {name}\n"
        )
    (found,) = [line for line in small_limits(str(home)) if str(home) in line]
    assert "qmail-smtpd/run: 'softlimit -m 2000000': Python needs at least 67108864 bytes" in found
    assert found in showctl(home, "--check").stdout.decode()


def test_the_rules_of_tcpserver_are_compared_with_their_source(home: Path, tmp_path: Path) -> None:
    rules = tmp_path / "tcp.smtp"
    (home / "service" / "qmail-smtpd").mkdir(parents=True)
    script = f"#!/bin/sh\nexec tcpserver -v -R \\\n  -c 40 -x {rules}.cdb 0 25 qmail-smtpd\n"
    (home / "service" / "qmail-smtpd" / "run").write_text(script)
    assert f"{rules}.cdb: missing: " in showctl(home, "--check").stdout.decode()
    for name in (f"{rules}.cdb", str(rules)):
        Path(name).write_text("")
    os.utime(f"{rules}.cdb", (1000, 1000))
    assert f"{rules}: newer than {rules}.cdb: run qmailctl cdb" in showctl(home, "--check").stdout.decode()
    os.utime(rules, (999, 999))
    assert str(rules) not in showctl(home, "--check").stdout.decode()


def test_python_does_start_under_the_limit_that_is_called_enough(home: Path) -> None:
    command = f"ulimit -v {(64 << 20) // 1024}; exec {ROOT}/bin/qmail-showctl"
    result = subprocess.run(["sh", "-c", command], env={"QMAIL_HOME": str(home)}, capture_output=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert b"My name is mx.example.org." in result.stdout
