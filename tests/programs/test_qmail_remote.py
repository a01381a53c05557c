"""qmail-remote as a process: reports, addresses and the conversation, against scripted peers."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyqmail.policy import interfaces
from pyqmail.programs import qmail_remote
from pyqmail.remote import attempts
from pyqmail.resolver import Resolver
from tests.loopback import free_port
from tests.mail_sink import accept_all, mail_sink
from tests.scripted_peers import _RUN as RUN
from tests.scripted_peers import ACCEPTING, REPO, SmtpPeer, dns_peer, remote_home, run_program, smtp_peer

MODULE = "pyqmail.programs.qmail_remote"
MESSAGE = b"Subject: x\n\nhello\n"
SAID = b"Remote host said: "


def remote(home: Path, *arguments: bytes, message: bytes = MESSAGE) -> bytes:
    status, reports = run_program(MODULE, arguments, home, message)
    assert status == 0
    return reports


def send_to(
    peer: SmtpPeer, directory: Path, recipients: tuple[bytes, ...] = (b"r@x.test",), message: bytes = MESSAGE
) -> bytes:
    home = remote_home(directory, smtproutes=f":[127.0.0.1]:{peer.port}")
    return remote(home, b"x.test", b"s@y.test", *recipients, message=message)


def scripted(changes: dict[int, bytes | None]) -> list[bytes | None]:
    """The accepting script with some replies changed; None hangs up there."""
    return [changes.get(number, reply) for number, reply in enumerate(ACCEPTING)]


@pytest.mark.contract("remote 5.1", "remote 5.2", "remote 5.3", "remote 5.4", "remote 5.6", "remote 5.7", "remote 5.8")
def test_message_is_delivered_in_the_fixed_order(tmp_path: Path) -> None:
    with smtp_peer(ACCEPTING) as peer:
        assert send_to(peer, tmp_path) == b"r\0K127.0.0.1 accepted message.\nRemote host said: 250 taken\n\0"
    assert peer.heard == (
        b"EHLO me.test\r\nMAIL FROM:<s@y.test>\r\nRCPT TO:<r@x.test>\r\nDATA\r\n"
        b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n"
    )


@pytest.mark.contract("remote 5", "remote 5.5", "remote 7.2", "remote 7.3", "remote 7.4", "remote 7.6")
@pytest.mark.parametrize(
    ("step", "reply", "reports"),
    [
        (0, b"554 no\r\n", b"ZConnected to 127.0.0.1 but greeting failed.\nRemote host said: 554 no\n\0"),
        (0, b"221 no\r\n", b"ZConnected to 127.0.0.1 but greeting failed.\nRemote host said: 221 no\n\0"),
        (1, b"421 no\r\n", b"ZConnected to 127.0.0.1 but my name was rejected.\nRemote host said: 421 no\n\0"),
        (2, b"550 no\r\n", b"DConnected to 127.0.0.1 but sender was rejected.\nRemote host said: 550 no\n\0"),
        (2, b"450 no\r\n", b"ZConnected to 127.0.0.1 but sender was rejected.\nRemote host said: 450 no\n\0"),
        (2, b"hello\r\n", b"DConnected to 127.0.0.1 but sender was rejected.\nRemote host said: hello\n\0"),
        (
            3,
            b"550-no\r\n550 such\0user\r\n",
            b"h127.0.0.1 does not like recipient.\nRemote host said: 550-no\n550 such?user\n\0"
            b"DGiving up on 127.0.0.1.\n\0",
        ),
        (
            3,
            b"450 later\r\n",
            b"s127.0.0.1 does not like recipient.\nRemote host said: 450 later\n\0DGiving up on 127.0.0.1.\n\0",
        ),
        (4, b"550 no\r\n", b"r\0D127.0.0.1 failed on DATA command.\nRemote host said: 550 no\n\0"),
        (4, b"450 no\r\n", b"r\0Z127.0.0.1 failed on DATA command.\nRemote host said: 450 no\n\0"),
        (5, b"550 no\r\n", b"r\0D127.0.0.1 failed after I sent the message.\nRemote host said: 550 no\n\0"),
        (5, b"450 no\r\n", b"r\0Z127.0.0.1 failed after I sent the message.\nRemote host said: 450 no\n\0"),
        (0, None, b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"),
        (2, None, b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"),
        (4, None, b"r\0ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"),
        (5, None, b"r\0ZConnected to 127.0.0.1 but connection died. Possible duplicate! (#4.4.2)\n\0"),
    ],
)
def test_refusal_or_loss_at_each_step(tmp_path: Path, step: int, reply: bytes | None, reports: bytes) -> None:
    with smtp_peer(scripted({step: reply})) as peer:
        assert send_to(peer, tmp_path) == reports


@pytest.mark.parametrize("refusal", [b"500 what?\r\n", b"451 later\r\n", b"251 odd\r\n"])
def test_helo_follows_a_refused_ehlo(tmp_path: Path, refusal: bytes) -> None:
    with smtp_peer([ACCEPTING[0], refusal, *ACCEPTING[1:]]) as peer:
        assert send_to(peer, tmp_path).startswith(b"r\0K")
    assert peer.heard.startswith(b"EHLO me.test\r\nHELO me.test\r\nMAIL FROM:<s@y.test>\r\n")


@pytest.mark.parametrize("reply", [b"550 no\r\n", b"251 no\r\n"])
def test_a_name_that_helo_may_not_give_is_no_reason_to_bounce(tmp_path: Path, reply: bytes) -> None:
    with smtp_peer([ACCEPTING[0], b"500 what?\r\n", reply]) as peer:
        report = b"ZConnected to 127.0.0.1 but my name was rejected.\nRemote host said: " + reply.replace(b"\r", b"")
        assert send_to(peer, tmp_path) == report + b"\0"


def test_ehlo_can_be_switched_off(tmp_path: Path) -> None:
    with smtp_peer(ACCEPTING) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}", remoteehlo="0")
        assert remote(home, b"x.test", b"", b"r@x.test").startswith(b"r\0K")
    assert peer.heard.startswith(b"HELO me.test\r\nMAIL FROM:<>\r\n")


OFFER = b"250-hello\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 8BITMIME\r\n"


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        pytest.param(b"Subject: x\n\nhello\n", b" SIZE=21", id="line ends count twice"),
        pytest.param(b"Subject: x\r\n\r\nhello\r\n", b" SIZE=21", id="CR LF counts as it is"),
        pytest.param(b"\n\xe9\n", b" SIZE=5 BODY=8BITMIME", id="8-bit text is declared"),
        pytest.param(b"x\n" * 50_000 + b"\xe9\n", b" SIZE=150003 BODY=8BITMIME", id="far behind the beginning too"),
    ],
)
def test_size_and_eight_bits_are_declared_and_commands_go_together(
    tmp_path: Path, message: bytes, parameters: bytes
) -> None:
    (tmp_path / "message").write_bytes(message)
    with mail_sink(lambda line, transaction: OFFER if line[:4] == b"EHLO" else accept_all(line, transaction)) as sink:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{sink.port}")
        with (tmp_path / "message").open("rb") as file:
            words = [sys.executable, "-c", RUN, str(REPO), MODULE, "x.test", "", "a@x.test", "b@x.test"]
            done = subprocess.run(words, stdin=file, stdout=subprocess.PIPE, env={"QMAIL_HOME": home}, check=True)
        assert done.stdout.startswith(b"r\0r\0K")
        sink.wait(lambda: sink.open == 0, "end")
    assert b"MAIL FROM:<>" + parameters + b"\r\n" in sink.lines
    assert sink.taken[0].body.replace(b"\r\n", b"\n") == message.replace(b"\r\n", b"\n")


def test_pipelined_refusals_end_without_a_message(tmp_path: Path) -> None:
    replies = [b"220 hi\r\n", OFFER, b"250 sender\r\n550 no\r\n354 go\r\n"]
    with smtp_peer(replies) as peer:
        reports = send_to(peer, tmp_path)
    assert reports.endswith(b"550 no\n\0DGiving up on 127.0.0.1.\n\0")
    assert b"\r\n.\r\n" not in peer.heard and b"hello" not in peer.heard.split(b"DATA\r\n")[1]


@pytest.mark.contract("remote 5", "remote 2.4")
def test_a_silent_peer_times_out(tmp_path: Path) -> None:
    with smtp_peer([b""]) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}", timeoutremote="1")
        report = remote(home, b"x.test", b"", b"r@x.test")
    assert report == b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"


@pytest.mark.contract("remote 1.5", "remote 1.6", "remote 1.7", "remote 5.4")
def test_recipient_reports_follow_the_arguments(tmp_path: Path) -> None:
    replies = [*ACCEPTING[:3], b"250 a\r\n", b"550 b\r\n", b"450 c\r\n", b"354 go\r\n", b"250 taken\r\n"]
    with smtp_peer(replies) as peer:
        reports = send_to(peer, tmp_path, (b"a@x", b"b@x", b"c@x")).split(b"\0")
    assert [report[:1] for report in reports] == [b"r", b"h", b"s", b"K", b""]


@pytest.mark.contract("remote 1.17")
def test_partial_final_line_is_dropped_without_quit(tmp_path: Path) -> None:
    with smtp_peer(ACCEPTING) as peer:
        reports = send_to(peer, tmp_path, message=b"a\nb")
    assert reports == b"r\0DSMTP cannot transfer messages with partial final lines. (#5.6.2)\n\0"
    assert peer.heard.endswith(b"DATA\r\n")


def test_large_message_goes_through_whole(tmp_path: Path) -> None:
    message = b"".join(b".%d\r\n" % number if number % 3 else b"%d\n" % number for number in range(300_000))
    with smtp_peer(ACCEPTING) as peer:
        assert send_to(peer, tmp_path, message=message).startswith(b"r\0K")
    body = peer.heard.split(b"DATA\r\n", 1)[1].removesuffix(b".\r\nQUIT\r\n")
    assert body.replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n") == message.replace(b"\r\n", b"\n")


@pytest.mark.contract("remote 7.7")
def test_bounce_has_an_empty_sender(tmp_path: Path) -> None:
    with smtp_peer(ACCEPTING) as peer:
        remote(remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}"), b"x.test", b"", b"r@x.test")
    assert b"MAIL FROM:<>\r\n" in peer.heard


@pytest.mark.parametrize("bad", [b"s@x>\r\nRSET", b"s\n@x"])
def test_sender_with_a_line_break_never_reaches_a_peer(tmp_path: Path, bad: bytes) -> None:
    with smtp_peer(ACCEPTING) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}")
        assert remote(home, b"x.test", bad, b"r@x.test").startswith(b"D")
    assert peer.heard == b""


def test_ipv6_relay(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    with smtp_peer(ACCEPTING, "::1") as peer:
        home = remote_home(tmp_path, smtproutes=f":[::1]:{peer.port}")
        assert remote(home, b"x.test", b"", b"r@x.test") == b"r\0K::1 accepted message.\n" + SAID + b"250 taken\n\0"


@pytest.mark.contract("remote 1.1")
def test_too_few_arguments(tmp_path: Path) -> None:
    report = b"DI (qmail-remote) was invoked improperly. (#5.3.5)\n\0"
    assert remote(remote_home(tmp_path), b"x.test", b"s@x") == report


@pytest.mark.contract("remote 1.4", "remote 1.15")
def test_no_home_is_temporary(tmp_path: Path) -> None:
    report = b"ZUnable to switch to home directory. (#4.3.0)\n\0"
    assert remote(tmp_path / "absent", b"x.test", b"", b"r@x") == report


@pytest.mark.contract("remote 2.1", "remote 1.16")
@pytest.mark.parametrize("trouble", ["no name", "unreadable"])
def test_controls_that_cannot_be_read_are_temporary(tmp_path: Path, trouble: str) -> None:
    home = remote_home(tmp_path)
    if trouble == "no name":
        (home / "control" / "me").unlink()
    else:
        (home / "control" / "smtproutes").mkdir()
    assert remote(home, b"x.test", b"", b"r@x") == b"ZUnable to read control files. (#4.3.0)\n\0"


@pytest.mark.contract("remote 1.3")
def test_closed_report_descriptor_still_exits_0(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os.close(1)
        from pyqmail.programs import qmail_remote

        os._exit(qmail_remote.main([b"qmail-remote"], {b"QMAIL_HOME": os.fsencode(tmp_path)}))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.contract("remote 3.5")
def test_refused_connection_is_temporary(tmp_path: Path) -> None:
    home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{free_port()}")
    report = b"ZSorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n\0"
    assert remote(home, b"x.test", b"", b"r@x.test") == report


@pytest.mark.contract("remote 6")
def test_address_that_timed_out_twice_is_skipped(tmp_path: Path) -> None:
    import time

    with smtp_peer(ACCEPTING) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}")
        record = bytes((127, 0, 0, 1, 2, 0, 0, 0)) + int(time.time()).to_bytes(4, "little")
        (home / "queue" / "lock" / "tcpto").write_bytes(record.ljust(1024, b"\0"))
        assert remote(home, b"x.test", b"", b"r@x.test").endswith(b"(#4.4.1)\n\0")
    assert peer.connections == 0


@pytest.mark.contract("remote 6")
def test_answer_clears_the_count(tmp_path: Path) -> None:
    with smtp_peer(ACCEPTING) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}")
        (home / "queue" / "lock" / "tcpto").write_bytes(bytes((127, 0, 0, 1, 9)).ljust(1024, b"\0"))
        assert remote(home, b"x.test", b"", b"r@x.test").startswith(b"r\0K")
    assert (home / "queue" / "lock" / "tcpto").read_bytes()[4] == 0


Zone = dict[tuple[str, str], list[str]]


def ask(directory: Path, zone: Zone, host: bytes = b"x.test", **controls: str) -> tuple[bytes, list[tuple[str, str]]]:
    """The reports of a delivery that needs DNS, and what was asked."""
    with dns_peer(zone) as peer:
        home = remote_home(directory, dnsservers=f"127.0.0.1:{peer.port}", **controls)
        reports = remote(home, host, b"", b"r@" + host)
        return reports, [(name, kind) for name, kind, _ in peer.asked]


@pytest.mark.contract("remote 4.15", "remote 4.19", "remote 4.21", "remote 3.3", "remote 3.4")
@pytest.mark.contract("remote 1.13", "remote 1.18", "remote 1.19", "remote 1.20")
@pytest.mark.parametrize(
    ("zone", "report"),
    [
        pytest.param({}, b"DSorry, I couldn't find any host named x.test. (#5.1.2)\n\0", id="no such name"),
        pytest.param(
            {("x.test.", "TXT"): ["hello"]},
            b"DSorry, I couldn't find any host named x.test. (#5.1.2)\n\0",
            id="no data",
        ),
        pytest.param(
            {("x.test.", "MX"): ["CNAME y.test."], ("x.test.", "A"): ["CNAME y.test."]},
            b"DSorry, I couldn't find a mail exchanger or IP address. (#5.4.4)\n\0",
            id="a CNAME that leads nowhere",
        ),
        pytest.param(
            {("x.test.", "MX"): ["0 ."], ("x.test.", "A"): ["127.0.0.1"]},
            b"DSorry, that host says that it takes no mail. (#5.1.10)\n\0",
            id="null MX",
        ),
        pytest.param(
            {("x.test.", "MX"): ["5 a.test."]},
            b"DSorry, I couldn't find a mail exchanger or IP address. (#5.4.4)\n\0",
            id="an exchanger without address",
        ),
        pytest.param(
            {("x.test.", "MX"): ["5 a.test."], ("a.test.", "A"): ["127.0.0.1"]},
            b"DSorry. Although I'm listed as a best-preference MX or A for that host,\n"
            b"it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)\n\0",
            id="ourselves",
        ),
    ],
)
def test_hosts_without_anybody_to_connect_to(tmp_path: Path, zone: Zone, report: bytes) -> None:
    assert ask(tmp_path, zone)[0] == report


@pytest.mark.contract("remote 2.5", "remote 7.10")
def test_failures_of_a_relay_name_the_relay(tmp_path: Path) -> None:
    report, asked = ask(tmp_path, {}, smtproutes="x.test:relay.test")
    assert report == b"DSorry, I couldn't find any host named relay.test. (#5.1.2)\n\0"
    assert {kind for _, kind in asked} <= {"A", "AAAA"}


@pytest.mark.contract("remote 2.9")
def test_empty_relay_with_a_port_names_nothing(tmp_path: Path) -> None:
    report, asked = ask(tmp_path, {}, smtproutes="x.test::26")
    assert (report, asked) == (b"DSorry, I couldn't find any host named . (#5.1.2)\n\0", [])


@pytest.mark.contract("remote 1.18")
def test_strange_bytes_of_a_host_are_not_echoed(tmp_path: Path) -> None:
    report, _ = ask(tmp_path, {}, host=b"x \xe9\x07.test")
    assert report == b"DSorry, I couldn't find any host named x???.test. (#5.1.2)\n\0"


TWO_ADDRESSES: Zone = {("relay.test.", "A"): ["127.86.1.2", "127.86.1.3"]}  # in this order: IPv4 stays as received
BUSY = b"ZConnected to 127.86.1.2 but greeting failed.\nRemote host said: 421 busy\n\0"
TAKEN = b"r\0K127.86.1.3 accepted message.\n" + SAID + b"250 taken\n\0"


@pytest.mark.contract("remote 3.5", "remote 7.1", "remote 7.4")
@pytest.mark.parametrize(
    ("first", "spoken"),
    [
        pytest.param([b"421 busy\r\n"], b"QUIT\r\n", id="421 in place of a greeting"),
        pytest.param([b"554 no\r\n"], b"QUIT\r\n", id="554 in place of a greeting"),
        pytest.param([None], b"", id="a connection that is closed before the greeting"),
        pytest.param(
            [b"220 x\r\n", b"502 what\r\n", b"550 no\r\n"],
            b"EHLO me.test\r\nHELO me.test\r\nQUIT\r\n",
            id="a name that is refused",
        ),
        pytest.param(scripted({2: b"421 going\r\n"}), None, id="421 to MAIL"),
        pytest.param(scripted({3: b"421 going\r\n"}), None, id="421 to RCPT"),
        pytest.param(scripted({4: b"421 going\r\n"}), None, id="421 to DATA"),
        pytest.param(scripted({3: None}), None, id="a connection that is closed at RCPT"),
    ],
)
def test_the_next_address_is_tried_while_nothing_was_sent(
    tmp_path: Path, first: list[bytes | None], spoken: bytes | None
) -> None:
    with smtp_peer(first, "127.86.1.2") as one, smtp_peer(ACCEPTING, "127.86.1.3", one.port) as other:
        report, _ = ask(tmp_path, TWO_ADDRESSES, smtproutes=f"x.test:relay.test:{one.port}")
    assert report == TAKEN
    assert (one.connections, other.connections) == (1, 1)
    assert spoken is None or one.heard == spoken


@pytest.mark.parametrize(
    ("changes", "report"),
    [
        ({2: b"450 later\r\n"}, b"ZConnected to 127.86.1.2 but sender was rejected.\n" + SAID + b"450 later\n\0"),
        ({2: b"550 no\r\n"}, b"DConnected to 127.86.1.2 but sender was rejected.\n" + SAID + b"550 no\n\0"),
        ({5: b"421 going\r\n"}, b"r\0Z127.86.1.2 failed after I sent the message.\n" + SAID + b"421 going\n\0"),
        ({5: None}, b"r\0ZConnected to 127.86.1.2 but connection died. Possible duplicate! (#4.4.2)\n\0"),
    ],
)
def test_an_answer_about_the_mail_is_final(tmp_path: Path, changes: dict[int, bytes | None], report: bytes) -> None:
    with smtp_peer(scripted(changes), "127.86.1.2") as one, smtp_peer(ACCEPTING, "127.86.1.3", one.port) as other:
        assert ask(tmp_path, TWO_ADDRESSES, smtproutes=f"x.test:relay.test:{one.port}")[0] == report
    assert other.connections == 0


def test_an_exchanger_is_left_alone_when_all_of_its_addresses_ask_for_less(tmp_path: Path) -> None:
    busy = [b"421 busy\r\n"]
    with dns_peer(TWO_ADDRESSES) as peer, smtp_peer(busy, "127.86.1.2") as one:
        home = remote_home(
            tmp_path,
            dnsservers=f"127.0.0.1:{peer.port}",
            smtproutes=f"x.test:relay.test:{one.port}",
            remotelimits="*::",
        )
        (home / "queue/pyqmail").mkdir(parents=True)
        (home / "queue/pyqmail/remotelimits").touch()
        with smtp_peer(ACCEPTING, "127.86.1.3", one.port):
            for _ in range(2):
                assert remote(home, b"x.test", b"", b"r@x.test") == TAKEN
        with smtp_peer(busy, "127.86.1.3", one.port) as other:
            assert b"127.86.1.3 but greeting failed" in remote(home, b"x.test", b"", b"r@x.test")
            assert remote(home, b"x.test", b"", b"r@x.test").startswith(b"ZHeld back: relay.test gets no message for ")
    assert (one.connections, other.connections) == (3, 1)


@pytest.mark.contract("remote 3.5")
def test_where_nobody_begins_the_last_answer_is_reported(tmp_path: Path) -> None:
    with smtp_peer([b"554 never\r\n"], "127.86.1.3") as one, smtp_peer([b"421 busy\r\n"], "127.86.1.2", one.port):
        zone: Zone = {("relay.test.", "A"): ["127.86.1.3", "127.86.1.2", "127.86.1.4"]}  # the third one does not listen
        assert ask(tmp_path, zone, smtproutes=f"x.test:relay.test:{one.port}")[0] == BUSY


def test_a_delivery_begins_with_five_hosts_at_the_most(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(smtp_peer([b"421 busy\r\n"], "127.86.1.2"))
        addresses = [f"127.86.1.{last}" for last in range(2, 9)]
        peers = [first] + [
            stack.enter_context(smtp_peer([b"421 busy\r\n"], address, first.port)) for address in addresses[1:]
        ]
        ask(tmp_path, {("relay.test.", "A"): addresses}, smtproutes=f"x.test:relay.test:{first.port}")
    assert [peer.connections for peer in peers] == [1] * 5 + [0] * 2


def in_process(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> bytes:
    """What main prints when it runs here, where the tests have made something fail."""
    before = os.getcwd()
    try:
        assert (
            qmail_remote.main([b"qmail-remote", b"x.test", b"", b"r@x.test"], {b"QMAIL_HOME": os.fsencode(home)}) == 0
        )
    finally:
        os.chdir(before)
    return capfdbinary.readouterr().out


@pytest.mark.contract("remote 1.9")
@pytest.mark.parametrize("where", ["look_up", "connect"])
def test_no_memory_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], where: str
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    if where == "look_up":
        monkeypatch.setattr(Resolver, "look_up", exhausted)
        home = remote_home(tmp_path)
    else:
        monkeypatch.setattr(attempts, "Connection", exhausted)
        home = remote_home(tmp_path, smtproutes=":127.0.0.1:1")
    assert in_process(home, capfdbinary) == b"ZOut of memory. (#4.3.0)\n\0"


@pytest.mark.contract("remote 1.10")
@pytest.mark.parametrize("controls", [{}, {"smtproutes": ":127.0.0.1:1"}], ids=["for DNS", "for SMTP"])
def test_no_socket_is_temporary(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    controls: dict[str, str],
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    home = remote_home(tmp_path, **controls)
    monkeypatch.setattr(socket, "socket", none_left)
    assert in_process(home, capfdbinary) == b"ZSystem resources temporarily unavailable. (#4.3.0)\n\0"


@pytest.mark.contract("remote 1.10")
def test_no_interface_list_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(interfaces, "local_addresses", none_left)
    assert in_process(remote_home(tmp_path), capfdbinary) == b"ZSystem resources temporarily unavailable. (#4.3.0)\n\0"


@pytest.mark.contract("remote 1.5")
def test_an_internationalised_domain_is_sent_as_a_labels(tmp_path: Path) -> None:
    with smtp_peer(ACCEPTING) as peer:
        assert send_to(peer, tmp_path, ("r@b\u00fccher.test".encode(),)).startswith(b"r\0K")
    assert b"RCPT TO:<r@xn--bcher-kva.test>\r\n" in peer.heard


def test_mail_goes_out_from_the_address_of_its_sender_and_by_its_name(tmp_path: Path) -> None:
    with mail_sink(accept_all) as sink:
        controls = {
            "outgoingip": "127.9.9.1",
            "domainbindings": "y.test:127.9.9.2\n",
            "helohostbyip": "127.9.9.2:two.test\n",
        }
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{sink.port}", **controls)
        for sender in (b"a@y.test", b"a@z.test"):
            assert remote(home, b"x.test", sender, b"r@x.test").startswith(b"r\0K")
    assert sorted(line for line in sink.lines if line.startswith(b"EHLO")) == [
        b"EHLO me.test\r\n",
        b"EHLO two.test\r\n",
    ]
    assert sorted(sink.clients) == ["127.9.9.1", "127.9.9.2"]


@pytest.mark.parametrize(
    ("address", "report"),
    [
        ("192.0.2.1", b"ZUnable to send from 192.0.2.1. (#4.4.1)\n\0"),
        ("nonsense", b"ZUnable to read control files. (#4.3.0)\n\0"),
    ],
)
def test_an_address_that_is_not_ours_makes_mail_wait(tmp_path: Path, address: str, report: bytes) -> None:
    with smtp_peer(ACCEPTING) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}", outgoingip=address)
        assert remote(home, b"x.test", b"", b"r@x.test") == report
    assert peer.connections == 0


@pytest.mark.contract("remote 2.2", "remote 2.8")
def test_an_empty_route_means_mx_in_spite_of_the_wildcard(tmp_path: Path) -> None:
    _, asked = ask(tmp_path, {}, smtproutes="x.test:\n:127.0.0.1:1")
    assert asked[0] == ("x.test.", "MX")


def test_ipv6_and_ipv4_of_one_host_are_tried_until_one_answers(tmp_path: Path) -> None:
    zone = {("relay.test.", "A"): ["127.0.0.1"], ("relay.test.", "AAAA"): ["::1"]}
    with smtp_peer(ACCEPTING) as peer:
        report, _ = ask(tmp_path, zone, smtproutes=f":relay.test:{peer.port}")
    assert report.startswith(b"r\0K127.0.0.1 accepted")


def test_ipv6_only_exchanger_is_reached(tmp_path: Path) -> None:
    zone = {("relay.test.", "AAAA"): ["::1"]}
    with smtp_peer(ACCEPTING, "::1") as peer:
        report, _ = ask(tmp_path, zone, smtproutes=f":relay.test:{peer.port}")
    assert report.startswith(b"r\0K::1 accepted")


def test_our_own_ipv6_address_is_no_better_exchanger(tmp_path: Path) -> None:
    report, _ = ask(tmp_path, {("x.test.", "MX"): ["5 a.test."], ("a.test.", "AAAA"): ["::1"]})
    assert report.endswith(b"(#5.4.6)\n\0")


def test_recipients_of_other_domains_follow_the_host_that_the_caller_names(tmp_path: Path) -> None:
    with smtp_peer([*ACCEPTING[:4], *ACCEPTING[3:]]) as peer:
        home = remote_home(tmp_path, smtproutes=f"x.test:127.0.0.1:{peer.port}\n:127.0.0.1:1")
        assert remote(home, b"x.test", b"", b"a@x.test", b"b@elsewhere.test").startswith(b"r\0r\0K")


def test_no_search_list_is_applied(tmp_path: Path) -> None:
    _, asked = ask(tmp_path, {("single.x.test.", "MX"): ["5 a.test."]}, host=b"single")
    assert {name for name, _ in asked} == {"single."}
