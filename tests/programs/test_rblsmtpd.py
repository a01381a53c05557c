"""rblsmtpd as a process, beside Debian's, with a real name server (contract tcp, section 5)."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyqmail.programs.rblsmtpd import parse
from pyqmail.tcp.remote_name import packed, reversed_labels
from tests.loopback import everything
from tests.nameserver import nameserver, own_network
from tests.programs.tcp_servers import BIN, theirs

OURS = (sys.executable, "-ISXutf8", str(BIN / "rblsmtpd"))
DEBIAN = ("debian",)
BOTH = pytest.mark.parametrize("command", [OURS, DEBIAN], ids=["ours", "debian"])
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ADDRESS = f"{own_network()}.54"
PASSED = "passed\n"
LONG = "long " + "x" * 250
ZONES = {
    "list.test": [
        '9.2.0.192 TXT "listed: see http://list.test/?192.0.2.9"',
        f'10.2.0.192 TXT "{LONG}"',
        r'11.2.0.192 TXT "od\001d\200~"',
        "12.2.0.192 A 127.0.0.2",
        '13.2.0.192 TXT ""',
        '14.2.0.192 TXT "one " "two"',
        'eht.dd TXT "no address"',
        "1." + "0." * 23 + '8.b.d.0.1.0.0.2 TXT "six"',
    ],
    "other.test": ['9.2.0.192 TXT "the other list"', '15.2.0.192 TXT "only the other"'],
    "refusing.test": [
        "9.2.0.192 A 127.255.255.254",
        '9.2.0.192 TXT "Error: open resolver"',
        "10.2.0.192 A 127.0.0.1",
        '10.2.0.192 TXT "localhost"',
        "11.2.0.192 A 198.51.100.80",
        '11.2.0.192 TXT "this domain is for sale"',
        "12.2.0.192 A 127.255.255.255",
        "13.2.0.192 A 127.0.0.10",
        "13.2.0.192 A 127.255.255.254",
        '13.2.0.192 TXT "listed, among other things"',
    ],
    "white.test": ["9.2.0.192 A 127.0.0.2", "16.2.0.192 TXT white"],
}


@pytest.fixture(scope="module")
def dns() -> Iterator[str]:
    """A name server with lists; zones it does not have are refused, which is a soft failure."""
    with nameserver(ADDRESS, ZONES) as address:
        yield address


def run(
    command: tuple[str, ...], *argv: str, data: bytes = b"", program: tuple[str, ...] = ("echo", "passed"), **env: str
) -> tuple[str, str, int]:
    """Output, log and exit code."""
    command = (theirs("rblsmtpd"),) if command == DEBIAN else command
    environ = {"PATH": "/usr/bin:/bin", "TCPREMOTEIP": "192.0.2.9", **env}
    done = subprocess.run([*command, *argv, *program], input=data, capture_output=True, env=environ, timeout=60)
    return done.stdout.decode("latin-1"), re.sub(r" pid \d+", "", done.stderr.decode("latin-1")), done.returncode


def verdict(command: tuple[str, ...], *argv: str, **env: str) -> str:
    """What is said to a recipient, or that the program ran."""
    output, log, code = run(command, *argv, data=b"RCPT TO:<a@b>\r\nQUIT\r\n", **env)
    assert code == 0
    if output == PASSED:
        assert log == ""
        return PASSED
    greeting, reply, farewell, rest = output.split("\r\n")
    assert (greeting, farewell, rest) == ("220 rblsmtpd.local", "221 rblsmtpd.local", "")
    assert log == f"rblsmtpd: {env.get('TCPREMOTEIP', '192.0.2.9')}: {reply}\n"
    return reply


@BOTH
@pytest.mark.contract("tcp 5.1")
def test_an_empty_variable_never_blocks(command: tuple[str, ...]) -> None:
    assert verdict(command, "-r", "list.test", RBLSMTPD="") == PASSED


@BOTH
@pytest.mark.contract("tcp 5.2")
@pytest.mark.parametrize(
    ("value", "argv", "reply"),
    [
        ("go away", (), "451 go away"),
        ("go away", ("-b",), "451 go away"),
        ("-go away", (), "553 go away"),
        ("-go away", ("-b", "-B"), "553 go away"),
        ("-", (), "553 "),
        ("t\x01e\x7f~", (), "451 t?e?~"),
        ("a" * 199, (), "451 " + "a" * 199),
        ("a" * 201, (), "451 " + "a" * 200),
        ("-" + "b" * 300, (), "553 " + "b" * 200),
    ],
)
def test_the_variable_blocks(command: tuple[str, ...], value: str, argv: tuple[str, ...], reply: str) -> None:
    assert verdict(command, *argv, RBLSMTPD=value) == reply


@pytest.mark.parametrize(
    ("environ", "greeting"),
    [
        ({"SMTPS": "1"}, ""),
        ({"SMTPS": ""}, "220 "),
        ({"SMTPS": "0"}, "220 "),
        ({"SMTPS": "1", "DISABLETLS": "1"}, "220 "),
    ],
)
def test_who_expects_tls_is_told_nothing_in_clear(environ: dict[str, str], greeting: str) -> None:
    output, log, code = run(OURS, RBLSMTPD="-go away", data=b"QUIT\r\n", **environ)
    assert (output[:4], log, code) == (greeting, "rblsmtpd: 192.0.2.9: 553 go away\n", 0)


TEXT = "listed: see http://list.test/?192.0.2.9"


@ROOT
@BOTH
@pytest.mark.contract("tcp 5", "tcp 5.3", "tcp 5.4", "tcp 5.5", "tcp 5.9")
@pytest.mark.parametrize(
    ("argv", "ip", "reply"),
    [
        (("-r", "list.test"), "192.0.2.9", f"451 {TEXT}"),
        (("-rlist.test",), "192.0.2.9", f"451 {TEXT}"),
        (("-b", "-r", "list.test"), "192.0.2.9", f"553 {TEXT}"),
        (("-bB", "-r", "list.test"), "192.0.2.9", f"451 {TEXT}"),
        (("-r", "list.test"), "192.0.2.10", f"451 {LONG[:200]}"),
        (("-r", "list.test"), "192.0.2.11", "451 od?d?~"),
        (("-r", "list.test"), "192.0.2.12", PASSED),
        (("-r", "list.test"), "192.0.2.13", PASSED),
        (("-r", "list.test"), "192.0.2.14", "451 one two"),
        (("-r", "list.test"), "dd.eht", "451 no address"),
        (("-r", "list.test"), "", PASSED),
        (("-r", "list.test", "-r", "other.test"), "192.0.2.9", f"451 {TEXT}"),
        (("-r", "other.test", "-r", "list.test"), "192.0.2.9", "451 the other list"),
        (("-r", "list.test", "-r", "other.test"), "192.0.2.15", "451 only the other"),
        (("-a", "white.test", "-r", "list.test"), "192.0.2.9", PASSED),
        (("-r", "list.test", "-a", "white.test"), "192.0.2.9", f"451 {TEXT}"),
        (("-a", "white.test", "-r", "other.test"), "192.0.2.15", "451 only the other"),
        (("-a", "white.test", "-r", "white.test"), "192.0.2.16", "451 white"),
    ],
)
def test_lists_decide_in_their_order(
    dns: str, command: tuple[str, ...], argv: tuple[str, ...], ip: str, reply: str
) -> None:
    assert verdict(command, *argv, DNSCACHEIP=dns, TCPREMOTEIP=ip) == reply


@ROOT
@pytest.mark.contract("tcp 5.6", "tcp 5.7")
@pytest.mark.parametrize(
    ("argv", "reply"),
    [
        (("-r", "refused.example"), PASSED),
        (("-C", "-r", "refused.example", "-r", "list.test"), f"451 {TEXT}"),
        (("-a", "refused.example", "-r", "list.test"), PASSED),
        (("-c", "-r", "refused.example"), "451 temporary RBL lookup error"),
        (("-c", "-b", "-r", "refused.example"), "451 temporary RBL lookup error"),
        (("-cb", "-a", "refused.example", "-r", "list.test"), f"451 {TEXT}"),
        (("-c", "-a", "refused.example"), PASSED),
        (("-cC", "-r", "refused.example"), PASSED),
    ],
)
def test_soft_failures(dns: str, argv: tuple[str, ...], reply: str) -> None:
    """The name server refuses zones that it does not have. (Debian's program answers the same, after 11 s each.)"""
    assert verdict(OURS, *argv, DNSCACHEIP=dns) == reply


@ROOT
@pytest.mark.parametrize(
    ("argv", "last", "said"),
    [
        (("-r", "refusing.test"), 9, "refusing.test does not answer: Error: open resolver\n"),
        (("-r", "refusing.test"), 10, "refusing.test does not answer: localhost\n"),
        (("-r", "refusing.test"), 11, "refusing.test does not answer: this domain is for sale\n"),
        (("-r", "refusing.test"), 12, "refusing.test does not answer: 127.255.255.255\n"),
        (("-b", "-a", "refusing.test"), 9, "refusing.test does not answer: Error: open resolver\n"),
        (("-r", "refusing.test", "-r", "list.test"), 12, "refusing.test does not answer: 127.255.255.255\n"),
    ],
)
def test_a_list_that_refuses_to_answer_blocks_nobody(dns: str, argv: tuple[str, ...], last: int, said: str) -> None:
    output, log, code = run(OURS, *argv, DNSCACHEIP=dns, TCPREMOTEIP=f"192.0.2.{last}")
    assert (output, log, code) == (PASSED, f"rblsmtpd: 192.0.2.{last}: {said}", 0)


@ROOT
@pytest.mark.parametrize(
    ("argv", "last", "reply"),
    [
        (("-r", "refusing.test"), 13, "451 listed, among other things"),
        (("-r", "refusing.test", "-r", "list.test"), 9, f"451 {TEXT}"),
        (("-c", "-r", "refusing.test"), 9, "451 temporary RBL lookup error"),
    ],
)
def test_lists_beside_and_after_a_refusal(dns: str, argv: tuple[str, ...], last: int, reply: str) -> None:
    output, log, code = run(
        OURS, *argv, data=b"RCPT TO:<a@b>\r\nQUIT\r\n", DNSCACHEIP=dns, TCPREMOTEIP=f"192.0.2.{last}"
    )
    assert (output.split("\r\n")[1], code) == (reply, 0)
    assert log.endswith(f"rblsmtpd: 192.0.2.{last}: {reply}\n")


@pytest.mark.contract("tcp 5.8")
def test_without_lists_nothing_is_looked_up() -> None:
    assert verdict(OURS, DNSCACHEIP="192.0.2.1") == PASSED
    assert verdict(OURS, "-R", DNSCACHEIP="192.0.2.1") == PASSED


@ROOT
def test_ipv6_clients_are_looked_up_by_their_half_bytes(dns: str) -> None:
    assert reversed_labels(packed("2001:db8::1")).startswith(b"1.0.0.0.") and len(reversed_labels(packed("::1"))) == 63
    assert verdict(OURS, "-r", "list.test", DNSCACHEIP=dns, TCPREMOTEIP="2001:db8::1") == "451 six"
    assert verdict(OURS, "-r", "list.test", DNSCACHEIP=dns, TCPREMOTEIP="::ffff:192.0.2.14") == "451 one two"


COMMANDS = (
    b"HELO x\r\nehlo\r\nMail FROM:<>\r\nRSET\nNOOP \r\nRCPT TO:<a>\r\nDATA\r\nVRFY\r\nHELP\r\nother\r\n\r\n"
    b"NOOPS\r\nNOOP\r\r\n RSET\r\nquit x\r\nNOOP\r\n"
)


@BOTH
@pytest.mark.contract("tcp 5.10", "tcp 5.11", "tcp 5.12", "tcp 5.13", "tcp 7.8")
def test_the_conversation_with_a_blocked_client(command: tuple[str, ...]) -> None:
    output, _, code = run(command, data=COMMANDS, RBLSMTPD="no")
    codes = [line[:3] for line in output.split("\r\n")[:-1]]
    assert codes == ["220", *["250"] * 5, *["451"] * 9, "221"]
    assert set(output.split("\r\n")[1:6]) == {"250 rblsmtpd.local"}
    assert code == 0


@BOTH
@pytest.mark.contract("tcp 5", "tcp 7.8")
def test_the_end_of_the_input_and_the_timeout_end_it_quietly(command: tuple[str, ...]) -> None:
    assert run(command, data=b"NOOP", RBLSMTPD="no")[::2] == ("220 rblsmtpd.local\r\n", 0)
    program = (theirs("rblsmtpd"),) if command == DEBIAN else command
    ours, blocked = socket.socketpair()
    with ours:
        process = subprocess.Popen(
            [*program, "-t1", "true"], stdin=blocked, stdout=blocked, stderr=subprocess.PIPE, env={"RBLSMTPD": "no"}
        )
        blocked.close()
        ours.settimeout(30)
        assert everything(ours) == b"220 rblsmtpd.local\r\n"
        assert process.communicate(timeout=30)[1].startswith(b"rblsmtpd:  pid ")
        assert process.returncode == 0


def test_a_line_without_end_is_not_kept() -> None:
    output, _, code = run(OURS, data=b"QUIT " + b"x" * 3_000_000 + b"\r\n", RBLSMTPD="no")
    assert (output, code) == ("220 rblsmtpd.local\r\n221 rblsmtpd.local\r\n", 0)


@BOTH
@pytest.mark.contract("tcp 5")
def test_bad_calls_and_programs_that_are_missing(command: tuple[str, ...]) -> None:
    assert run(command, program=())[2] == 100
    output, log, code = run(command, "-Z")
    assert (output, code) == ("", 100) and log.startswith("rblsmtpd: illegal option -- Z\nrblsmtpd: usage: ")
    output, log, code = run(command, program=("no-such-program",))
    assert (log, code) == ("rblsmtpd: fatal: unable to run no-such-program: file does not exist\n", 111)


def test_options_keep_their_order() -> None:
    options = parse([b"rblsmtpd", b"-a", b"x", b"-bc", b"-ry", b"-t", b"7s", b"-R", b"qmail-smtpd", b"-r"])
    assert options.lists.bases == ((b"a", b"x"), (b"r", b"y"))
    assert (options.lists.permanent, options.lists.fail_closed, options.timeout_s) == (True, True, 7)
    assert options.program == (b"qmail-smtpd", b"-r")
