"""SPF, DKIM and DMARC at the door: qmail-smtpd, qmail-verifyd as a process, and a real name server."""

import base64
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.incoming.sender_results import without_results_of
from pyqmail.mailauth import report_events
from pyqmail.mailauth.results import parse_results
from pyqmail.mailauth.signing import SigningKey
from pyqmail.protocol.verification import REPORTS, SOCKET, format_pairs
from tests.mailauth.test_dkim import RSA, public_record, signed
from tests.nameserver import nameserver, own_network
from tests.programs.door import BIN, DEADLINE_S, Door, door_of
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the name server needs port 53, the service another user")
ZONE = [
    "strict TXT \"v=spf1 -all\"", "_dmarc.strict TXT \"v=DMARC1; p=reject\"",
    "alone TXT \"v=spf1 -all exp=w.alone.example\"",
    "w.alone TXT \"%{d} does not know %{i}\"", "here TXT \"v=spf1 ip4:192.0.2.7 -all\"",
    "_dmarc.here TXT \"v=DMARC1; p=reject\"", "_dmarc.doubt TXT \"v=DMARC1; p=quarantine\"", "soft TXT \"v=spf1 ~all\"",
    "broken TXT \"v=spf1 bogus\"",
    "told TXT \"v=spf1 ip4:192.0.2.7 -all\"", "_dmarc.told TXT \"v=DMARC1; p=reject; rua=mailto:d@told.example\"",
]  # fmt: skip
TEXT = b"From: Ann <ann@strict.example>\nTo: bob@here.test\nSubject: x\nDate: now\nMessage-ID: <1@x>\n"


@pytest.fixture(scope="module")
def name_server() -> Iterator[str]:
    key = public_record(RSA).partition(b"p=")[2].decode()
    texts = " ".join(f'"{part}"' for part in ["v=DKIM1; p=", *(key[at : at + 200] for at in range(0, len(key), 200))])
    address = own_network() + ".53"
    with nameserver(address, {"example": [*ZONE, f"r._domainkey.strict TXT {texts}"]}):
        yield address


@contextlib.contextmanager
def verifier(door: Door) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([BIN / "qmail-verifyd"], env={"QMAIL_HOME": str(door.base)})
    try:
        wait_for(lambda: connects(door), "qmail-verifyd", DEADLINE_S)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def connects(door: Door) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(str(door.base) + SOCKET) == 0


@pytest.fixture
def door(name_server: str) -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        (made.base / "run/incoming").mkdir(parents=True)
        made.base.chmod(0o755)
        made.control(dnsservers=name_server, spfbehavior="1", dmarcbehavior="3")
        with verifier(made):
            yield made


def send(door: Door, text: bytes, sender: bytes = b"ann@strict.example", rcpt: bytes = b"bob@here.test") -> list[bytes]:
    """The replies to a session with one message."""
    commands = b"EHLO c.example\r\nMAIL FROM:<%b>\r\nRCPT TO:<%b>\r\nDATA\r\n" % (sender, rcpt)
    said, _ = door.talk(commands + text.replace(b"\n", b"\r\n") + b".\r\nQUIT\r\n")
    return said.splitlines()


def found(door: Door) -> dict[bytes, bytes]:
    """Method and result of the Authentication-Results at the top of the message."""
    message = (door.base / "message").read_bytes()
    fields = message.replace(b"\n\t", b" ").split(b"\n")
    name, results = parse_results(fields[0].partition(b":")[2])
    assert (fields[0].partition(b":")[0], name) == (b"Authentication-Results", b"mx.test")
    assert fields[1].startswith(b"Received-SPF: ") and fields[2].startswith(b"Received: ")
    return {each.method: each.result for each in results}


def message(key: str = "r", body: bytes = b"hello\n") -> bytes:
    return signed(TEXT, body, [SigningKey(b"strict.example", key.encode(), RSA)], int(time.time()))


def test_a_signed_message_passes_whatever_spf_says(door: Door) -> None:
    assert any(line.startswith(b"250 ok") and b"qp" in line for line in send(door, message()))
    assert found(door) == {b"spf": b"fail", b"dkim": b"pass", b"dmarc": b"pass"}
    assert b"spf=fail dkim=pass dmarc=pass" in door.log.read_bytes()


def test_what_is_not_signed_is_refused_after_the_last_dot(door: Door) -> None:
    replies = send(door, TEXT + b"\nhello\n")
    assert b"550 DMARC: strict.example asks to refuse mail that it has neither signed nor sent (#5.7.1)" in replies
    assert not (door.base / "envelope").exists() or door.envelope() == b""
    assert b"refused" in door.log.read_bytes() and b"dmarc=fail" in door.log.read_bytes()


def test_spf_alone_is_enough(door: Door) -> None:
    send(door, TEXT.replace(b"strict", b"here") + b"\nhello\n", b"ann@here.example")
    assert found(door) == {b"spf": b"pass", b"dkim": b"none", b"dmarc": b"pass"}


def test_what_is_found_is_kept_for_reports_where_these_are_on(door: Door) -> None:
    told = TEXT.replace(b"strict", b"told") + b"\nhello\n"
    send(door, told, b"ann@told.example")
    assert report_events.days(str(door.base) + REPORTS) == []
    door.control(dmarcreports="dmarc@mx.test")
    send(door, told, b"ann@told.example")
    send(door, told, b"ann@here.example")
    send(door, message())  # its domain asks for no reports
    (day,) = report_events.days(str(door.base) + REPORTS)
    good, bad = report_events.read(f"{door.base}{REPORTS}/{day}")
    assert (good.policy_domain, good.author, good.ip) == ("told.example", "told.example", "192.0.2.7")
    assert (good.disposition, good.reason, good.dkim, good.spf) == ("pass", "", False, True)
    assert (bad.disposition, bad.dkim, bad.spf) == ("reject", False, False)
    assert (bad.spf_domain, bad.spf_result) == ("here.example", "pass")
    command = [BIN / "qmail-dmarcreport", "-n", day]
    shown = subprocess.run(command, env={"QMAIL_HOME": str(door.base)}, capture_output=True, check=True, timeout=60)
    assert shown.stdout.startswith(b"To: d@told.example\n<?xml ") and shown.stdout.count(b"<record>") == 2


def test_the_queue_program_is_told_the_result_of_spf(door: Door) -> None:
    door.queue('echo "${SPFRESULT-unset}" >>' + str(door.base / "spf"))
    for sender in (b"ann@here.example", b"ann@strict.example", b"ann@broken.example"):
        send(door, message(), sender)
    door.control(spfbehavior="0", dmarcbehavior="0")
    send(door, message())
    assert (door.base / "spf").read_text().split() == ["pass", "fail", "permerror", "unset"]


def test_the_queue_program_is_told_the_result_of_dmarc_and_starts_after_the_verdict(door: Door) -> None:
    door.queue('echo "${DMARCRESULT-unset}" >>' + str(door.base / "dmarc"))
    send(door, TEXT + b"\nrefused\n")
    assert not (door.base / "pids").exists()
    send(door, message())
    door.control(dmarcbehavior="1")
    send(door, TEXT + b"\nhello\n")
    door.control(spfbehavior="0", dmarcbehavior="0")
    send(door, message())
    assert (door.base / "dmarc").read_text().split() == ["pass", "fail", "unset"]


def test_a_change_on_the_way_is_refused(door: Door) -> None:
    assert any(line.startswith(b"550 DMARC") for line in send(door, message().replace(b"hello", b"hallo")))


@pytest.mark.parametrize(
    "field", [b"From: a@strict.example, b@e.example", b"From: <a@e.example>\nFrom: <b@e.example>", b"X: y"]
)
def test_two_authors_or_none_are_refused_and_only_where_it_is_enforced(door: Door, field: bytes) -> None:
    text = field + b"\nTo: bob@here.test\n\nx\n"
    assert any(line.startswith(b"550 sorry, the ") for line in send(door, text))
    door.control(dmarcbehavior="1")
    assert any(line.startswith(b"250 ok") for line in send(door, text))
    assert found(door)[b"dmarc"] == b"permerror"


def test_rehearsal_says_whom_enforcing_would_refuse(door: Door) -> None:
    door.control(dmarcbehavior="1")
    send(door, TEXT + b"\nhello\n")
    assert found(door)[b"dmarc"] == b"fail"
    log = door.log.read_bytes()
    assert b"rehearsal=spf:strict.example" in log and b"rehearsal=dmarc:strict.example" in log


def test_a_list_that_is_known_is_let_in(door: Door) -> None:
    door.control(dmarcwhite="Strict.example")
    text = message().replace(b"ann@strict.example", b"ann@here.example")
    assert any(line.startswith(b"550 DMARC") for line in send(door, text))  # its signature does not fit any more
    text = signed(
        TEXT.replace(b"ann@strict", b"ann@here"), b"x\n", [SigningKey(b"strict.example", b"r", RSA)], int(time.time())
    )
    assert any(line.startswith(b"250 ok") for line in send(door, text))


def test_quarantine_is_a_mark_from_4_on(door: Door) -> None:
    door.control(dmarcbehavior="4")
    send(door, TEXT.replace(b"strict", b"doubt") + b"\nx\n", b"ann@doubt.example")
    assert (door.base / "message").read_bytes().startswith(b"X-DMARC-Policy: quarantine; doubt.example\n")


@pytest.mark.parametrize(
    ("behavior", "dmarc", "sender", "reply"),
    [
        ("1", "0", b"a@alone.example", b""),
        ("3", "0", b"a@alone.example", b"550 alone.example: alone.example does not know 192.0.2.7 (#5.7.23)"),
        ("3", "0", b"a@strict.example", b"550 strict.example: SPF: 192.0.2.7 is not to send for it: fail (#5.7.23)"),
        ("3", "3", b"a@strict.example", b""),
        ("3", "3", b"a@alone.example", b"550 alone.example: alone.example does not know 192.0.2.7 (#5.7.23)"),
        ("3", "0", b"a@soft.example", b""),
        ("4", "0", b"a@soft.example", b"550 soft.example: SPF: 192.0.2.7 is not to send for it: softfail (#5.7.23)"),
        ("5", "0", b"a@none.example", b""),
        ("6", "0", b"a@none.example", b"550 none.example: SPF: 192.0.2.7 is not to send for it: none (#5.7.23)"),
        (
            "6",
            "0",
            b"a@broken.example",
            b"550 broken.example: SPF: 192.0.2.7 is not to send for it: permerror (#5.7.23)",
        ),
    ],
)
def test_spf_refuses_recipients_by_its_number(
    door: Door, behavior: str, dmarc: str, sender: bytes, reply: bytes
) -> None:
    door.control(spfbehavior=behavior, dmarcbehavior=dmarc)
    said, _ = door.talk(
        b"HELO c\r\nMAIL FROM:<%b>\r\nRCPT TO:<postmaster@here.test>\r\nRCPT TO:<b@here.test>\r\nQUIT\r\n" % sender
    )
    lines = said.splitlines()
    assert lines[2:4] == [b"250 ok", b"250 ok"]
    assert lines[4] == (reply or b"250 ok")


def test_a_rule_has_numbers_of_its_own_and_files_let_in_and_explain(door: Door) -> None:
    door.control(spfbehavior="1", dmarcbehavior="0", spfexp="see www.test, %{i}")
    commands = b"HELO c\r\nMAIL FROM:<a@strict.example>\r\nRCPT TO:<b@here.test>\r\nQUIT\r\n"
    assert door.talk(commands)[0].splitlines()[3] == b"250 ok"
    door.environ |= {"SPFBEHAVIOR": "3"}
    assert door.talk(commands)[0].splitlines()[3] == b"550 strict.example: see www.test, 192.0.2.7 (#5.7.23)"
    door.control(spfrules="ip4:192.0.2.0/24")
    assert door.talk(commands)[0].splitlines()[3] == b"250 ok"
    door.environ |= {"SPFBEHAVIOR": "0", "DMARCBEHAVIOR": "3"}
    assert any(line.startswith(b"550 DMARC") for line in send(door, TEXT + b"\nhello\n"))


def test_where_nobody_answers_it_is_later_from_2_on_and_never_no(door: Door) -> None:
    door.control(dnsservers=own_network() + ".99", spfbehavior="1", dmarcbehavior="1")
    send(door, message())
    assert found(door) == {b"spf": b"temperror", b"dkim": b"temperror", b"dmarc": b"temperror"}
    door.control(spfbehavior="1", dmarcbehavior="3")
    assert any(line.startswith(b"451 DKIM and DMARC") for line in send(door, message()))
    door.control(spfbehavior="3")
    assert any(line.startswith(b"451 SPF") for line in send(door, message()))


def test_without_the_service_it_is_the_same(name_server: str) -> None:
    with door_of("qmail-smtpd") as door:
        (door.base / "run").mkdir()
        door.control(dmarcbehavior="3")
        assert any(line.startswith(b"451 DKIM") for line in send(door, message()))
        door.control(dmarcbehavior="1")
        assert any(line.startswith(b"250 ok") for line in send(door, message()))
        (door.base / "control/dmarcbehavior").unlink()
        (door.base / "control/domainkeys/strict.example").mkdir(parents=True)
        assert any(line.startswith(b"250 ok") for line in send(door, message()))
        assert found(door)[b"dmarc"] == b"temperror"


def test_relay_clients_are_not_asked_about(door: Door) -> None:
    door.environ["RELAYCLIENT"] = ""
    assert any(line.startswith(b"250 ok") for line in send(door, TEXT + b"\nhello\n"))
    assert (door.base / "message").read_bytes().startswith(b"Received: ")


def test_without_the_files_nothing_is_asked_or_added(door: Door) -> None:
    for name in ("spfbehavior", "dmarcbehavior"):
        (door.base / "control" / name).unlink()
    send(door, b"Authentication-Results: mx.test; dkim=pass\n" + TEXT + b"\nhello\n")
    assert (door.base / "message").read_bytes().startswith(b"Received: ")


@pytest.mark.parametrize("domain", ["strict.example", "example"])
def test_with_a_key_for_the_author_it_is_said_whatever_the_numbers_are(door: Door, domain: str) -> None:
    for name in ("spfbehavior", "dmarcbehavior"):
        (door.base / "control" / name).unlink()
    (door.base / "control/domainkeys" / domain).mkdir(parents=True)
    send(door, message())
    assert found(door) == {b"spf": b"fail", b"dkim": b"pass", b"dmarc": b"pass"}
    assert b"spf=fail dkim=pass dmarc=pass" in door.log.read_bytes()
    assert any(line.startswith(b"250 ok") for line in send(door, TEXT + b"\nhello\n"))
    assert found(door)[b"dmarc"] == b"fail"
    assert b"rehearsal" not in door.log.read_bytes()


def test_with_keys_others_are_not_asked_about_and_still_may_not_forge(door: Door) -> None:
    for name in ("spfbehavior", "dmarcbehavior"):
        (door.base / "control" / name).unlink()
    (door.base / "control/domainkeys/other.example").mkdir(parents=True)
    send(door, b"Authentication-Results: mx.test; dkim=pass\n" + message())
    text = (door.base / "message").read_bytes()
    assert text.startswith(b"Received: ") and b"Authentication-Results" not in text
    assert b"spf=" not in door.log.read_bytes()


def test_what_claims_to_be_ours_goes_and_what_others_said_stays(door: Door) -> None:
    forged = b"Authentication-Results: MX.test;\n\tdkim=pass header.d=bank.example\n"
    forged += b'Authentication-Results :\n (x) "mx.test"; spf=pass\n'
    other = b"Authentication-Results: other.test; dkim=pass\n"
    send(door, forged + other + message())
    text = (door.base / "message").read_bytes()
    assert other in text and b"bank.example" not in text
    assert text.lower().count(b"authentication-results") == 2 and b'"mx.test"; spf=pass' not in text


def test_a_worker_that_dies_is_replaced_and_others_are_hung_up_on(door: Door) -> None:
    for record, expected in ((b"nonsense", b""), (format_pairs([(b"about", b"message")]), b"")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(str(door.base) + SOCKET)
            sock.send(record)
            assert sock.recv(100) == expected
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); sock.connect(sys.argv[1])\n"
        "try: assert sock.recv(10) == b''\n"
        "except ConnectionResetError: pass\n"
    )
    subprocess.run(["/usr/bin/python3", "-c", program, str(door.base) + SOCKET], check=True, timeout=DEADLINE_S)


def test_a_large_message_is_checked_too(door: Door) -> None:
    assert any(b" qp " in line for line in send(door, message(body=b"0123456789abcdef\n" * 60000)))
    assert found(door)[b"dkim"] == b"pass"


def test_base64_of_a_key_survives_dns() -> None:
    assert base64.b64decode(public_record(RSA).partition(b"p=")[2])


@given(
    st.lists(
        st.sampled_from(
            [b"A: b\n", b"Authentication-Results: us; x=y\n", b" c\n", b"\n", b"Authentication-Results: b\n"]
        ),
        max_size=12,
    ),
    st.integers(1, 9),
)
def test_the_pieces_of_a_message_do_not_matter(lines: list[bytes], size: int) -> None:
    text = b"".join(lines)
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    whole = b"".join(without_results_of(b"us", [text]))
    assert b"".join(without_results_of(b"us", pieces)) == whole
    header = whole if whole.startswith(b"\n") else whole.partition(b"\n\n")[0]
    assert whole.startswith(b"\n") or b"us; x=y" not in header
