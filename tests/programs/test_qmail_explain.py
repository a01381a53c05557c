"""qmail-explain: the rules in their order, the verdict, and that the verdict is what really happens."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dns.rcode import NXDOMAIN, SERVFAIL

from pyqmail.formats.cdb import write_cdb
from pyqmail.remote.limiter import Limiter
from pyqmail.remote.limits import parse_limits
from tests.admin.machine import Machine
from tests.scripted_peers import dns_peer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(ROOT / "bin" / "qmail-explain")


FILES = {
    "gone": b"|/no/such/program\n",
    "gone-quietly": b"./Maildir/\n|nosuchprogram -x 2>/dev/null\n",
    "gone-last": b"|cat | /no/such/program\n",
    "gone-first": b"|/no/such/program && true\n",
    "gone-perhaps": b"|/no/such/program || true\n",
    "gone-before": b"|/no/such/program; true\n",
    "gone-after-cd": b"|cd /bin; ./true\n",
    "gone-preline": b"|preline -f /no/such/program\n",
    "gone-exec": b"|A=b exec /no/such/program\n",
    "unknown": b"|$PROGRAM x\n",
    "unended": b"|echo 'x\n",
    "nohome": b"|~/bin/none\n",
    "plain": b"|/etc/passwd\n",
    "nombox": b"./none/mbox\n",
    "maildir": b"./Maildir\n",
    "hidden": b"./Maildir/;\n",
    "null": b"/dev/null\n",
    "windows": b"\xef\xbb\xbf~/Maildir/\r\n&Fred <fred@remote.test>, x@remote.test # both\r\n",
    "nobody": b"&<>\n",
    "include": b":include:/list\n",
    "only": b"+list\n./Maildir/\n",
    "itself": b"./Maildir/\n&joe-itself@example.test\n",
    "one": b"&joe-two@example.test\n",
    "two": b"&Joe-One@Example.test\n",
    "dead": b"&joe-nothing@example.test\n",
    "chain": b"&joe-null@example.test\n&joe-gone@example.test\n",
    "aliases-default": b"| fastforward -d aliases.cdb\n",
    "sendmail": b"|dot-forward .good\n./Maildir/\n",
    "exim": b"|dot-forward .filter\n./Maildir/\n",
    "nolist": b"|dot-forward .nolist\n./Maildir/\n",
    "norun": b"| dot-forward .norun\n./Maildir/\n",
    "noforward": b"|dot-forward .none\n./Maildir/\n",
    "noaliases": b"| fastforward -d none.cdb\n",
    "aliases-p-default": b"|fastforward -pd aliases.cdb\n./Maildir/\n",
    "circle-default": b"|fastforward -d circle.cdb\n",
    "resends": b'|forward fred@remote.test, "$USER"-RESENDS@$HOST\n',
    "resends-piped": b"|sed s/x/y/ | /usr/bin/env A=b forward joe-one@example.test\n",
    "resends-if": b"|test -f x && forward joe-resends-if@example.test\n",
    "resends-unknown": b"|forward $ELSEWHERE joe-resends-unknown@example.test\n",
    "redirected": b"|condredirect joe-redirected@example.test grep -q spam\n./Maildir/\n",
    "redirected-always": b"|condredirect joe-redirected-always@example.test true\n",
    "sendmails": b"|dot-forward .missing .circle\n./Maildir/\n",
}


@pytest.fixture
def home(single_user_home: Path) -> Path:
    """A single-user tree with one account, joe, who has some .qmail files."""
    for name in ("users", "run", "queue", "joe/Maildir/tmp", "joe/Maildir/new", "joe/Maildir/cur"):
        (single_user_home / name).mkdir(parents=True)
    (single_user_home / "bin").mkdir(exist_ok=True)
    for program in ("preline", "forward", "condredirect", "dot-forward", "fastforward"):
        (single_user_home / "bin" / program).symlink_to(ROOT / "bin" / program)
    joe = single_user_home / "joe"
    (joe / ".qmail").write_text("./Maildir/\n&fred@remote.test\n")
    (joe / ".qmail-lists-default").write_text("|cat\n")
    write_cdb(str(joe / "aliases.cdb"), [(b":known@", b"&x@remote.test\0")])
    (joe / ".qmail-broken").write_text("\n./Maildir/\n")
    (joe / ".qmail-nodir").write_text("./Missing/\n")
    (joe / ".good").write_text('\\joe, "|cat", ~/Maildir/, /dev/null # all\r\n')
    (joe / ".filter").write_text("# Exim filter\nif error_message then finish endif\n")
    (joe / ".nolist").write_text("a@remote.test\n:include:/no/list\n")
    circle = [(b":a@", b"&joe-circle-b@example.test\0"), (b":b@", b"&joe-circle-a@example.test\0")]
    circle += [(b":c@example.test", b"&d@example.test\0"), (b":d@example.test", b"&c@example.test\0")]
    write_cdb(str(joe / "circle.cdb"), [*circle, (b":list@", b"./none.bin\0"), (b":run@", b"!/no/program x\0")])
    (joe / ".circle").write_text("joe, joe-sendmails@example.test\n")
    (joe / ".norun").write_text('"|/no/program"\n')
    for file, content in FILES.items():
        (joe / f".qmail-{file}").write_bytes(content)
    for path in joe.glob(".qmail*"):
        path.chmod(0o644)
    uid = os.geteuid() or 65534
    assign = f"=joe:joe:{uid}:{uid}:{joe}:::\n+joe-:joe:{uid}:{uid}:{joe}:-::\n=root:root:0:0:/root:::\n"
    assign += f"=odd:odd:{uid}:{uid}:here:::\n.\n"
    (single_user_home / "users" / "assign").write_text(assign)
    control = single_user_home / "control"
    (control / "locals").write_text("example.test\n")
    (control / "rcpthosts").write_text("example.test\nvirtual.test\n")
    (control / "virtualdomains").write_text("virtual.test:joe-lists\n.virtual.test:\n")
    (control / "smtproutes").write_text("remote.test:[192.0.2.7]:26\n")
    (control / "badmailfrom").write_text("@spam.test\n")
    return single_user_home


def explain(home: Path, *words: str) -> tuple[int, list[str]]:
    """The exit code and the lines."""
    done = subprocess.run([PROGRAM, *words], env={"QMAIL_HOME": str(home)}, capture_output=True, text=True, timeout=60)
    assert done.stderr == "" or "usage" in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def field(lines: list[str], name: str) -> str:
    """What the line called ``name`` says."""
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def test_a_local_address_down_to_the_last_line(home: Path) -> None:
    code, lines = explain(home, "Joe@Example.test")
    assert code == 0
    assert field(lines, "locals") == "lists Example.test"
    assert field(lines, "channel") == "local, as Joe@Example.test"
    assert field(lines, "users/cdb") == "Joe is assigned"
    assert field(lines, "account") == "joe, extension ''"
    assert field(lines, ".qmail") == "is there"
    assert field(lines, "maildir") == "./Maildir/"
    assert field(lines, "forward") == "fred@remote.test"
    assert field(lines, "verdict") == "deliverable: by the instructions above"


def test_the_order_of_qmail_files_is_shown(home: Path) -> None:
    code, lines = explain(home, "joe-lists-qmail@example.test")
    assert code == 0
    assert lines.index(f"{'.qmail-lists-qmail:':<16}is not there") < lines.index(
        f"{'.qmail-lists-default:':<16}is there"
    )
    assert field(lines, "DEFAULT") == "qmail"
    assert field(lines, "program") == "cat"


def test_a_virtual_domain_and_its_exception(home: Path) -> None:
    code, lines = explain(home, "info@virtual.test")
    assert (code, field(lines, "channel")) == (0, "local, as joe-lists-info@virtual.test")
    assert field(lines, "virtualdomains") == "the line for 'virtual.test' prepends joe-lists-"
    _, lines = explain(home, "info@sub.virtual.test")
    assert field(lines, "virtualdomains") == "the line for '.virtual.test' makes an exception: not virtual"
    assert field(lines, "channel").startswith("remote")


def test_a_remote_address_by_its_route(home: Path) -> None:
    code, lines = explain(home, "x@remote.test")
    assert code == 0
    assert field(lines, "smtproutes") == "the line for 'remote.test': [192.0.2.7] port 26"
    assert field(lines, "server") == "192.0.2.7, preference 0, TLS where it is offered"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("remote.test:none", "in clear"),
        ("*:encrypt", "TLS or nothing"),
        ("remote.test:verify", "TLS with a certificate for [192.0.2.7]"),
    ],
)
def test_what_is_asked_of_a_server_and_who_we_are_there(home: Path, line: str, said: str) -> None:
    (home / "control" / "tlsdestinations").write_text(line + "\n")
    (home / "control" / "smtproutes").write_text("remote.test:[192.0.2.7]:26/clear|joe|se|ret\n")
    code, lines = explain(home, "x@remote.test")
    assert code == 0 and "se|ret" not in str(lines)
    assert field(lines, "smtproutes") == "the line for 'remote.test': [192.0.2.7] port 26, user joe"
    assert field(lines, "server") == f"192.0.2.7, preference 0, {said}"


def test_what_a_server_gets_now(home: Path) -> None:
    (home / "control/remotelimits").write_text("192.0.2.7:8:100/60\n")
    said = "192.0.2.7, preference 0, TLS where it is offered; 192.0.2.7 gets "
    assert (
        field(explain(home, "x@remote.test")[1], "server") == f"{said}8 connections at once, 100 messages in 60 seconds"
    )
    (home / "queue/pyqmail").mkdir(parents=True, exist_ok=True)
    (home / "queue/pyqmail/remotelimits").touch()
    Limiter(str(home), parse_limits([b"*::"])).heard(b"192.0.2.7", less=True, accepted=False)
    told = field(explain(home, "x@remote.test")[1], "server")
    assert told.startswith(f"{said}4 connections at once, fewer than usual, 100 messages in 60 seconds, and none for ")


@pytest.mark.parametrize(
    ("options", "said"),
    [("24/lmtp", "[192.0.2.7] port 24 by LMTP"), ("1/lmtp=/nonexistent", "/nonexistent by LMTP")],
)
def test_a_route_to_an_lmtp_server(home: Path, options: str, said: str) -> None:
    (home / "control" / "smtproutes").write_text(f"remote.test:[192.0.2.7]:{options}\n")
    code, lines = explain(home, "x@remote.test")
    assert code == 0 and field(lines, "smtproutes") == f"the line for 'remote.test': {said}"


MX = {("remote2.test.", "MX"): ["10 mx.remote2.test."], ("mx.remote2.test.", "A"): ["192.0.2.9"]}
DNS = [
    ("an MX", MX, 0, "deliverable: to the first of the servers"),
    ("no such name", {}, 100, "refused: Sorry, I couldn't find any host named remote2.test. (#5.1.2)"),
    ("no answer", None, 111, "deferred: Sorry, I couldn't find any host by that name. (#4.1.2)"),
]


@pytest.mark.parametrize(("zone", "code", "verdict"), [row[1:] for row in DNS], ids=[row[0] for row in DNS])
def test_a_remote_address_by_dns(
    home: Path, zone: dict[tuple[str, str], list[str]] | None, code: int, verdict: str
) -> None:
    with dns_peer(zone or {}, unknown=SERVFAIL if zone is None else NXDOMAIN) as peer:
        (home / "control" / "dnsservers").write_text(f"127.0.0.1:{peer.port}\n")
        found, lines = explain(home, "joe@Remote2.test")
    assert (found, field(lines, "verdict")[: len(verdict)].lower()) == (code, verdict.lower())
    assert field(lines, "smtproutes") == "has no line for it: MX"
    if code == 0:
        assert field(lines, "server") == "192.0.2.9, preference 10, TLS where it is offered"


VERDICTS = [
    (["joe-nothing@example.test"], 100, "refused: Sorry, no mailbox here by that name. (#5.1.1)"),
    (["joe-broken@example.test"], 111, "deferred: the first line is blank: qmail-local defers everything"),
    (["joe-nodir@example.test"], 111, "deferred: ./Missing/: is not there"),
    (["joe-gone@example.test"], 111, "deferred: /no/such/program: the program /no/such/program is not there"),
    (
        ["joe-gone-quietly@example.test"],
        111,
        "deferred: nosuchprogram -x 2>/dev/null: the program nosuchprogram",
    ),
    (["joe-gone-last@example.test"], 111, "deferred: cat | /no/such/program: the program"),
    (["joe-gone-first@example.test"], 111, "deferred: /no/such/program && true: the program"),
    (["joe-gone-perhaps@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-gone-before@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-gone-after-cd@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-gone-preline@example.test"], 100, "refused: preline -f /no/such/program: the program"),
    (["joe-gone-exec@example.test"], 111, "deferred: A=b exec /no/such/program: the program"),
    (["joe-unknown@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-unended@example.test"], 111, "deferred: echo 'x: sh cannot read it"),
    (["joe-nohome@example.test"], 111, "deferred: ~/bin/none: the program ./bin/none is not there"),
    (["joe-plain@example.test"], 111, "deferred: /etc/passwd: the program /etc/passwd may not be executed"),
    (["joe-nombox@example.test"], 111, "deferred: ./none/mbox: is not there"),
    (["joe-maildir@example.test"], 111, "deferred: ./Maildir: is a directory: a maildir has a / at its end"),
    (["joe-hidden@example.test"], 111, "deferred: ./Maildir/;: would be a file within a maildir"),
    (["joe-null@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-windows@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-nobody@example.test"], 111, "deferred: &<>: says nothing that can be done"),
    (["joe-include@example.test"], 111, "deferred: :include:/list: says nothing that can be done"),
    (["joe-only@example.test"], 111, "deferred: ./Maildir/: forbidden: the file may only forward"),
    (["joe-itself@example.test"], 100, "refused: loops: joe-itself@example.test"),
    (["joe-one@example.test"], 100, "refused: loops: joe-one@example.test to joe-two@example.test to joe-one@example"),
    (
        ["joe-dead@example.test"],
        100,
        "refused: joe-nothing@example.test: Sorry, no mailbox here by that name. (#5.1.1)",
    ),
    (["joe-chain@example.test"], 111, "deferred: joe-gone@example.test: /no/such/program: the program"),
    (["joe-aliases-known@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-aliases-new@example.test"], 100, "refused:  fastforward -d aliases.cdb: aliases.cdb has no such address"),
    (["joe-sendmail@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-noforward@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-exim@example.test"], 111, "deferred: dot-forward .filter: .filter: line 1: filters are not supported"),
    (
        ["joe-nolist@example.test"],
        111,
        "deferred: dot-forward .nolist: .nolist: line 2: /no/list: the list is not",
    ),
    (["joe-norun@example.test"], 111, "deferred:  dot-forward .norun: .norun: line 1: |/no/program: the program"),
    (["joe-noaliases@example.test"], 111, "deferred:  fastforward -d none.cdb: none.cdb: No such file or directory"),
    (["joe-aliases-p-new@example.test"], 0, "deliverable: by the instructions above"),
    (
        ["joe-circle-a@example.test"],
        100,
        "refused: loops: joe-circle-a@example.test to joe-circle-b@example.test to jo",
    ),
    (
        ["joe-circle-c@example.test"],
        100,
        "refused: fastforward -d circle.cdb: loops: d@example.test to c@example.test to d@",
    ),
    (["joe-circle-list@example.test"], 111, "deferred: fastforward -d circle.cdb: circle.cdb: list@: unable to read"),
    (["joe-circle-run@example.test"], 111, "deferred: fastforward -d circle.cdb: circle.cdb: run@: the program /no"),
    (["joe-resends@example.test"], 100, "refused: loops: joe-resends@example.test to joe-resends@example.test"),
    (
        ["joe-resends-piped@example.test"],
        100,
        "refused: loops: joe-one@example.test to joe-two@example.test to joe-one",
    ),
    (["joe-resends-if@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-resends-unknown@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-redirected@example.test"], 0, "deliverable: by the instructions above"),
    (["joe-redirected-always@example.test"], 100, "refused: loops: joe-redirected-always@example.test"),
    (["joe-sendmails@example.test"], 100, "refused: loops: joe-sendmails@example.test"),
    (["odd@example.test"], 100, "refused: qmail-local does not take 'here' for a home"),
    (["@example.test"], 0, "deliverable: an empty local part"),
    (["x@elsewhere.test", "--from", "192.0.2.1"], 100, "refused: qmail-smtpd refuses the recipient (553)"),
    (["joe@example.test", "--from", "::1", "--sender", "a@spam.test"], 100, "refused: qmail-smtpd refuses each"),
    (["joe@example.test", "--from", "192.0.2.1"], 0, "deliverable: by the instructions above"),
    (["x@remote.test", "--from", "10.1.2.3"], 0, "deliverable: to the first of the servers"),
    (["joe@example.test", "--from", "10.9.9.9"], 100, "refused: tcpserver closes the connection"),
]


@pytest.mark.parametrize(("words", "code", "verdict"), VERDICTS, ids=[" ".join(row[0]) for row in VERDICTS])
def test_verdicts(home: Path, words: list[str], code: int, verdict: str) -> None:
    rules = home / "rules.cdb"
    text = b'10.9.:deny\n10.:allow,RELAYCLIENT=""\n:allow\n'
    subprocess.run([ROOT / "bin" / "tcprules", rules, f"{rules}.tmp"], input=text, check=True)
    found, lines = explain(home, *words, "--rules", str(rules))
    assert (found, field(lines, "verdict")[: len(verdict)]) == (code, verdict)


def test_how_foreign_lines_were_read_is_shown(home: Path) -> None:
    code, lines = explain(home, "joe-windows@example.test")
    assert code == 0
    assert [line for line in lines if line.split(":")[0] in ("maildir", "forward")] == [
        f"{'maildir:':<16}./Maildir/",
        f"{'forward:':<16}fred@remote.test",
        f"{'forward:':<16}x@remote.test",
    ]
    assert field(explain(home, "joe-null@example.test")[1], "discard") == "/dev/null"


def test_limits_greylisting_and_programs_are_named_and_nothing_is_asked(home: Path) -> None:
    files = {
        "relaylimits": ":9\n10.1.0.0/16:100/3600,messages=50,550\n",
        "greylist": "60\n",
        "smtpplugins": "[rcpt]\nplugins/one\n[pass]\n:two\n",
        "maxrcpt": "50\n",
        "badhelo": "bot.test\n",
    }
    for name, text in files.items():
        (home / "control" / name).write_text(text)
    try:
        rules = home / "limits.cdb"
        subprocess.run([ROOT / "bin/tcprules", rules, f"{rules}.tmp"], input=b'10.:allow,RELAYCLIENT=""\n', check=True)
        _, lines = explain(home, "x@remote.test", "--from", "10.1.2.3", "--sender", "a@b.test", "--rules", str(rules))
        assert field(lines, "relaylimits").startswith(
            "10.1.0.0/16: 100 recipients in 3600 s, 50 messages in 86400 s; over"
        )
        _, lines = explain(home, "joe@example.test", "--from", "192.0.2.1")
        assert field(lines, "greylist") == "a newcomer comes again after 60 seconds"
        assert field(lines, "smtpplugins") == "plugins/one: asked at RCPT"
        assert f"{'smtpplugins:':<16}:two: asked at an accepted RCPT" in lines
        assert field(lines, "maxrcpt") == "50 recipients of a message"
        code, lines = explain(home, "joe@example.test", "--from", "192.0.2.1", "--helo", "bot.test")
        assert (code, field(lines, "badhelo")) == (100, "lists bot.test")
        text = b':allow,SMTPD_GREETDELAY="9",QMAILQUEUE="bin/qmail-rspamd"\n'
        subprocess.run([ROOT / "bin/tcprules", rules, f"{rules}.tmp"], input=text, check=True)
        _, lines = explain(home, "joe@example.test", "--from", "192.0.2.1", "--rules", str(rules))
        assert f"{'SMTPD_GREETDELAY:':<16}9 seconds to the greeting" in lines
        assert field(lines, "QMAILQUEUE").startswith("bin/qmail-rspamd gets the message")
    finally:
        for name in files:
            (home / "control" / name).unlink()


def test_a_home_that_others_may_write_is_deferred(home: Path) -> None:
    (home / "joe").chmod(0o777)
    code, lines = explain(home, "joe@example.test")
    assert code == 111 and "writable by others" in field(lines, "verdict")


def test_an_unreadable_control_file_is_named(home: Path) -> None:
    (home / "control" / "locals").unlink()
    (home / "control" / "locals").mkdir()
    code, lines = explain(home, "joe@example.test")
    assert (code, field(lines, "verdict")) == (111, "deferred: control/locals: Is a directory")


@pytest.mark.parametrize(
    "words", [[], ["a@b", "c@d"], ["a@b", "--from"], ["a@b", "--from", "joe"], ["a@b", "--what"], [""]], ids=str
)
def test_wrong_words_are_refused(home: Path, words: list[str]) -> None:
    assert explain(home, *words) == (100, [])


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine with a tree and the user ann, delivering."""
    made = Machine()
    try:
        made.install(me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n")
        made.background("exec env - PATH=/var/qmail/bin:/usr/bin:/bin qmail-start ./Maildir/ >/tmp/send.log 2>&1")
        log = made.path("/tmp/send.log")
        made.wait_for(lambda: log.exists() and "status: local" in log.read_text(), "the start")
        yield made
    finally:
        made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
@pytest.mark.parametrize(
    ("name", "code", "result"),
    [("ann", 0, "success"), ("nobody-here", 100, "failure"), ("ann-closed", 111, "deferral")],
)
def test_the_verdict_is_what_really_happens(machine: Machine, name: str, code: int, result: str) -> None:
    machine.run("su ann -c 'touch /home/ann/.qmail-closed; chmod 666 /home/ann/.qmail-closed'")
    done = machine.run(f"/var/qmail/bin/qmail-explain {name}@example.test", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    machine.run(f"printf 'Subject: x\\n\\nx\\n' | /var/qmail/bin/sendmail {name}@example.test")
    log = machine.path("/tmp/send.log")

    def results() -> list[str]:
        lines = log.read_text().splitlines()
        numbers = {line.split()[2].rstrip(":") for line in lines if line.endswith(f"to local {name}@example.test")}
        return [
            line.split()[2].rstrip(":") for line in lines if line.split()[1].rstrip(":") in numbers and ": " in line
        ]

    machine.wait_for(lambda: bool(results()), "the delivery")
    assert results() == [result]
