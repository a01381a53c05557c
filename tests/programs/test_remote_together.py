"""control/remotereuse and control/remotebatch, through qmail-rspawn and its warm workers."""

import os
import random
import time
from collections.abc import Iterator, Sequence

import pytest

from pyqmail.protocol.spawn import (
    Report,
    format_command,
    format_joint_command,
    format_probe,
    parse_probe_answer,
)
from pyqmail.system.stamp import settled
from tests.certificates import self_signed, server_context
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.programs.spawn_bench import Home, Spawn, install
from tests.scripted_peers import dns_peer
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs files of another owner")

PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    install(made.path / "bin/qmail-remote", "qmail_remote")
    (made.path / "control/me").write_text("me.test\n")
    (made.path / "queue/lock/tcpto").write_bytes(bytes(1024))
    yield made
    made.close()


def settle(home: Home, **controls: str) -> None:
    """Write control files, and return when they are old enough to be remembered."""
    for name, text in controls.items():
        (home.path / "control" / name).write_text(text + "\n")
    changed = max(path.stat().st_ctime_ns for path in (home.path / "control").iterdir())
    wait_for(lambda: settled(changed, time.time_ns()), "the files to settle")


def ask(spawn: Spawn, recipients: Sequence[str], **fields: str) -> list[Report]:
    """The reports on deliveries asked for in one write, by slot."""
    message, sender = fields.get("message", "0/1").encode(), fields.get("sender", "s@example.org").encode()
    os.write(
        spawn.to,
        b"".join(format_command(slot, message, sender, one.encode()) for slot, one in enumerate(recipients)),
    )
    reports = [spawn.report() for _ in recipients]
    return sorted(reports, key=lambda report: report.slot)


def ask_jointly(spawn: Spawn, recipients: Sequence[str], *, slot: int = 7, message: str = "0/1") -> dict[int, Report]:
    """The report on each recipient of one command, by its place; the slot is free then."""
    os.write(
        spawn.to, format_joint_command(slot, message.encode(), b"s@example.org", [one.encode() for one in recipients])
    )
    found: dict[int, Report] = {}
    while len(found) < len(recipients):
        report = spawn.report()
        places = range(report.first, min(report.last, len(recipients) - 1) + 1)
        assert report.slot == slot and not found.keys() & set(places)
        found |= dict.fromkeys(places, report)
    return found


def joint(home: Home) -> Spawn:
    """A spawner that was asked to take several recipients in one command, and does."""
    spawn = Spawn(home, "qmail-rspawn")
    spawn.parser.expect_probe_answer()
    os.write(spawn.to, format_probe(together=True))
    assert parse_probe_answer(spawn.report()) is not None and spawn.parser.joint
    return spawn


def test_a_command_for_several_recipients_is_one_transaction_and_one_report(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="50")
        spawn = joint(home)
        reports = ask_jointly(spawn, [f"r{number}@x.test" for number in range(50)])
        accepted = b"127.0.0.1 accepted message.\nRemote host said: 250 ok\n"
        assert set(reports.values()) == {Report(7, b"K", accepted, 0, 49)}
        assert [len(one.recipients) for one in sink.taken] == [50]
        os.write(
            spawn.to, b"".join(format_joint_command(slot, b"0/1", b"", [b"a@x.test", b"b@x.test"]) for slot in (0, 1))
        )
        assert {spawn.report().slot for _ in range(2)} == {0, 1}
        assert [len(one.recipients) for one in sink.taken] == [50, 4], "what comes together goes together"
        assert spawn.end() == 0


def test_each_recipient_of_a_joint_command_gets_what_became_of_it(home: Home) -> None:
    def picky(line: bytes, transaction: Transaction) -> bytes | None:
        if b"bad@" in line:
            return b"550 no such user\r\n"
        full = line.startswith(b"RCPT") and len(transaction.recipients) >= 2
        return b"452 too many recipients\r\n" if full else accept_all(line, transaction)

    with mail_sink(picky) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="9")
        spawn = joint(home)
        reports = ask_jointly(spawn, ["a@x.test", "bad@x.test", "b@x.test", "c@x.test", "d@x.test", "nowhere"])
        assert b"".join(reports[place].letter for place in range(6)) == b"KDKKKD"
        assert reports[5].text == b"Recipient address has no host name. (#5.1.3)\n"
        assert [len(one.recipients) for one in sink.taken] == [2, 2]
        for message, place in (("0/77", 0), ("../x", 1)):
            report = ask_jointly(spawn, ["a@x.test", "b@x.test"], message=message)[place]
            assert report.letter in (b"Z", b"D") and report.first == 0 and report.last >= 1
        assert ask_jointly(spawn, ["a@x.test", "b@x.test"])[0].letter == b"K", "the slot is free"
        assert spawn.end() == 0


def test_routes_to_lmtp_are_given_one_recipient_at_a_time_whatever_was_granted(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="50", remotereuse="20")
        spawn = joint(home)
        settle(home, smtproutes=f":127.0.0.1:{sink.port}/lmtp")
        assert {one.letter for one in ask_jointly(spawn, ["a@x.test", "b@x.test", "c@x.test"]).values()} == {b"K"}
        assert [len(one.recipients) for one in sink.taken] == [1, 1, 1] and sink.connections == 1, "one after another"
        assert spawn.end() == 0
        other = Spawn(home, "qmail-rspawn")
        other.parser.expect_probe_answer()
        os.write(other.to, format_probe(together=True))
        assert other.report().text == b"120" and not other.parser.joint
        assert other.end() == 0


def test_without_the_controls_each_recipient_has_its_own_connection(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}")
        spawn = Spawn(home, "qmail-rspawn")
        for report in ask(spawn, ["a@x.test", "b@x.test", "c@x.test"]):
            assert (report.letter, report.text) == (b"K", b"127.0.0.1 accepted message.\nRemote host said: 250 ok\n")
        spawn.end()
    assert sink.connections == 3 and [len(one.recipients) for one in sink.taken] == [1, 1, 1]


def test_reuse_keeps_the_connection_for_the_next_delivery(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotereuse="20")
        spawn = Spawn(home, "qmail-rspawn")
        for recipient in ("a@x.test", "b@y.test", "c@x.test"):  # one relay: the same host and port
            assert spawn.deliver(recipient) == b"K127.0.0.1 accepted message.\nRemote host said: 250 ok\n"
        sink.wait(lambda: len(sink.taken) == 3, "three messages")
        assert sink.connections == 1 and b"QUIT\r\n" not in sink.lines
        assert sink.lines.count(b"EHLO me.test\r\n") == 1
        spawn.end()


def test_a_kept_connection_is_closed_with_quit_when_its_time_is_over(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotereuse="1")
        spawn = Spawn(home, "qmail-rspawn")
        assert spawn.deliver("a@x.test")[:1] == b"K"
        sink.wait(lambda: sink.connections == 1 and sink.open == 0, "end of the connection")
        assert sink.lines[-1] == b"QUIT\r\n"
        assert spawn.deliver("b@x.test")[:1] == b"K"
        assert sink.connections == 2
        spawn.end()


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(None, id="the peer hangs up"),
        pytest.param(b"421 enough\r\n", id="the peer says 421"),
    ],
)
@pytest.mark.parametrize("verb", [b"MAIL", b"RCPT", b"DATA"])
def test_a_kept_connection_that_fails_before_the_message_is_no_failure(
    home: Home, verb: bytes, loss: bytes | None
) -> None:
    def tires(line: bytes, transaction: Transaction) -> bytes | None:
        again = any(one.connection == transaction.connection for one in sink.taken)
        return loss if again and line.startswith(verb) else accept_all(line, transaction)

    with mail_sink(tires) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotereuse="20")
        spawn = Spawn(home, "qmail-rspawn")
        for recipient in ("a@x.test", "b@x.test", "c@x.test"):
            assert spawn.deliver(recipient)[:1] == b"K"
        assert [one.recipients for one in sink.taken] == [[b"<a@x.test>"], [b"<b@x.test>"], [b"<c@x.test>"]]
        assert sink.connections == 3
        spawn.end()


def test_a_kept_connection_lost_after_the_message_is_reported_as_ever(home: Home) -> None:
    def dies(line: bytes, transaction: Transaction) -> bytes | None:
        return None if sink.taken and line == b".\r\n" else accept_all(line, transaction)

    with mail_sink(dies) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotereuse="20")
        spawn = Spawn(home, "qmail-rspawn")
        assert spawn.deliver("a@x.test")[:1] == b"K"
        lost = b"ZConnected to 127.0.0.1 but connection died. Possible duplicate! (#4.4.2)\n"
        assert spawn.deliver("b@x.test") == lost
        assert sink.connections == 1
        spawn.end()


def test_words_out_of_turn_end_a_kept_connection(home: Home) -> None:
    def chatters(line: bytes, transaction: Transaction) -> bytes | None:
        return b"250 ok\r\n250 and one more\r\n" if line == b".\r\n" else accept_all(line, transaction)

    with mail_sink(chatters) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotereuse="20")
        spawn = Spawn(home, "qmail-rspawn")
        for _ in range(2):
            assert spawn.deliver("a@x.test")[:1] == b"K"
        assert sink.connections == 2 and len(sink.taken) == 2
        spawn.end()


def test_a_changed_control_file_is_honoured_by_the_next_delivery(home: Home) -> None:
    with mail_sink() as one, mail_sink() as other:
        settle(home, smtproutes=f":127.0.0.1:{one.port}", remotereuse="20")
        spawn = Spawn(home, "qmail-rspawn")
        assert spawn.deliver("a@x.test")[:1] == b"K"
        (home.path / "control/smtproutes").write_text(f":127.0.0.1:{other.port}\n")
        assert spawn.deliver("a@x.test")[:1] == b"K"
        (home.path / "control/helohost").write_text("other.test\n")
        assert spawn.deliver("a@x.test")[:1] == b"K"
        assert (len(one.taken), len(other.taken)) == (1, 2)
        assert b"EHLO other.test\r\n" in other.lines
        spawn.end()


def test_a_kept_connection_is_for_who_asks_for_the_same_security(home: Home) -> None:
    def offers(line: bytes, transaction: Transaction) -> bytes | None:
        return b"250-x\r\n250 STARTTLS\r\n" if line[:4] == b"EHLO" else accept_all(line, transaction)

    with mail_sink(offers, context=server_context(self_signed(home.path))) as sink:
        settle(
            home,
            smtproutes=f":127.0.0.1:{sink.port}",
            remotereuse="20",
            remotebatch="9",
            tlsdestinations="y.test:encrypt\nz.test:none",
        )
        spawn = Spawn(home, "qmail-rspawn")
        reports = [spawn.deliver(each).split(b"\n")[2] for each in ("a@x.test", "b@x.test", "c@y.test", "d@z.test")]
        assert reports == [b"tls=TLSv1.3, opportunistic"] * 2 + [b"tls=TLSv1.3, encrypted by file", b""]
        assert (sink.connections, len(sink.secured)) == (3, 2)
        ask(spawn, ["a@x.test", "b@x.test", "c@y.test", "d@z.test"])
        assert sorted(len(one.recipients) for one in sink.taken[4:]) == [1, 1, 2]
        spawn.end()


def test_batch_joins_recipients_of_one_message_sender_and_route(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="50")
        spawn = Spawn(home, "qmail-rspawn")
        reports = ask(spawn, [f"r{number}@x.test" for number in range(30)])
        assert [(report.slot, report.letter, report.text) for report in reports] == [
            (slot, b"K", b"127.0.0.1 accepted message.\nRemote host said: 250 ok\n") for slot in range(30)
        ]
        assert [len(one.recipients) for one in sink.taken] == [30] and sink.connections == 1
        spawn.end()


def test_recipients_go_by_lmtp_one_at_a_time(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}/lmtp", remotebatch="50", remotereuse="20")
        spawn = Spawn(home, "qmail-rspawn")
        assert {report.letter for report in ask(spawn, ["a@x.test", "b@x.test", "c@x.test"])} == {b"K"}
        assert [len(one.recipients) for one in sink.taken] == [1, 1, 1]
        assert sink.lines.count(b"LHLO me.test\r\n") == sink.connections and b"EHLO me.test\r\n" not in sink.lines
        spawn.end()


def test_batch_never_joins_more_than_it_may_nor_other_senders_or_messages(home: Home) -> None:
    home.message("0/2", b"Subject: other\n\n")
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}\ny.test:[127.0.0.1]:{sink.port}", remotebatch="3")
        spawn = Spawn(home, "qmail-rspawn")
        assert {report.letter for report in ask(spawn, [f"r{number}@x.test" for number in range(7)])} == {b"K"}
        sink.wait(lambda: len(sink.taken) >= 3, "three messages")
        assert sorted(len(one.recipients) for one in sink.taken) == [1, 3, 3]
        sink.taken.clear()
        spawn.send(0, "a@x.test")
        spawn.send(1, "a@x.test", sender="other@x.test")
        spawn.send(2, "a@x.test", message="0/2")
        spawn.send(3, "a@y.test")
        assert {spawn.report().letter for _ in range(4)} == {b"K"}
        assert [len(one.recipients) for one in sink.taken] == [1, 1, 1, 1]
        spawn.end()


@pytest.mark.contract("remote 7.3")
def test_each_recipient_of_a_batch_gets_its_own_report(home: Home) -> None:
    def picky(line: bytes, transaction: Transaction) -> bytes | None:
        if b"bad@" in line:
            return b"550-no\r\n550 such user\r\n"
        return b"450 later\r\n" if b"busy@" in line else accept_all(line, transaction)

    with mail_sink(picky) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="9", remotereuse="9")
        spawn = Spawn(home, "qmail-rspawn")
        reports = ask(spawn, ["good@x.test", "bad@x.test", "busy@x.test", "fine@x.test"])
        assert [report.letter for report in reports] == [b"K", b"D", b"Z", b"K"]
        assert reports[1].text == b"127.0.0.1 does not like recipient.\nRemote host said: 550-no\n550 such user\n"
        alone = ask(spawn, ["bad@x.test", "busy@x.test"])
        assert [report.letter for report in alone] == [b"D", b"Z"]
        assert all(report.text.endswith(b"Giving up on 127.0.0.1.\n") for report in alone)
        assert sink.taken[0].recipients == [b"<good@x.test>", b"<fine@x.test>"]
        spawn.end()


def test_recipients_that_were_only_too_many_go_again_at_once(home: Home) -> None:
    def narrow(line: bytes, transaction: Transaction) -> bytes | None:
        full = line.startswith(b"RCPT") and len(transaction.recipients) >= 2
        return b"452 too many recipients\r\n" if full else accept_all(line, transaction)

    with mail_sink(narrow) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="9")
        spawn = Spawn(home, "qmail-rspawn")
        reports = ask(spawn, [f"r{number}@x.test" for number in range(5)])
        assert [report.letter for report in reports] == [b"K"] * 5
        assert sorted(name for one in sink.taken for name in one.recipients) == [
            b"<r%d@x.test>" % number for number in range(5)
        ]
        spawn.end()


def test_a_batch_that_cannot_start_is_deferred_for_each(home: Home) -> None:
    settle(home, smtproutes=":127.0.0.1:1", remotebatch="9")
    spawn = Spawn(home, "qmail-rspawn")
    reports = ask(spawn, ["a@x.test", "b@x.test"], message="0/77")
    assert [(report.letter, report.text[-9:]) for report in reports] == [(b"Z", b"(#4.3.0)\n")] * 2
    reports = ask(spawn, ["a@x.test", "b@x.test"])
    assert [(report.letter, report.text[-9:]) for report in reports] == [(b"Z", b"(#4.4.1)\n")] * 2
    assert spawn.end() == 0


def test_deliveries_that_wait_for_others_are_made_when_the_commands_end(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="9")
        spawn = Spawn(home, "qmail-rspawn")
        for slot in range(3):
            spawn.send(slot, "a@x.test")
        assert spawn.process.stdin is not None
        spawn.process.stdin.close()
        assert [spawn.report().letter for _ in range(3)] == [b"K"] * 3
        assert spawn.process.wait(20) == 0


def test_domains_of_one_relay_share_a_transaction(home: Home) -> None:
    with mail_sink() as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="9")
        spawn = Spawn(home, "qmail-rspawn")
        assert {report.letter for report in ask(spawn, ["a@x.test", "b@y.test", "c@z.test"])} == {b"K"}
        assert [one.recipients for one in sink.taken] == [[b"<a@x.test>", b"<b@y.test>", b"<c@z.test>"]]
        spawn.end()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_peer_does_each_report_tells_what_became_of_its_recipient(home: Home, seed: int) -> None:
    """Reuse and batches with a peer that fails anywhere: success exactly for what it took, and nothing taken twice."""
    chance = random.Random(seed)

    def moody(line: bytes, transaction: Transaction) -> bytes | None:
        if chance.random() < 0.9:
            return accept_all(line, transaction)
        replies = [b"450 later\r\n", b"550 no\r\n", b"421 enough\r\n", b"452 too many\r\n", b"250-a\r\n250 b\r\n", None]
        return chance.choice(replies if not line.startswith(b"DATA") else [*replies[:4], None])

    with mail_sink(moody) as sink:
        settle(home, smtproutes=f":127.0.0.1:{sink.port}", remotebatch="7", remotereuse="5")
        spawn = joint(home) if seed % 2 else Spawn(home, "qmail-rspawn")
        reports: dict[bytes, bytes] = {}
        for turn in range(12):
            names = [f"r{turn}-{number}@{chance.choice('xyz')}.test" for number in range(20)]
            told = list(dict(sorted(ask_jointly(spawn, names).items())).values()) if seed % 2 else ask(spawn, names)
            for name, report in zip(names, told, strict=True):
                reports[name.encode()] = report.letter
        assert spawn.end() == 0
    taken = [name.strip(b"<>") for one in sink.taken for name in one.recipients]
    assert sorted(taken) == sorted(name for name, letter in reports.items() if letter == b"K")
    assert {b"K"} < set(reports.values()) <= {b"K", b"Z", b"D"}  # which failures there are is the threads' order
    assert len(sink.taken) < len(taken)


def test_two_names_of_one_host_share_a_connection_after_the_look_up(home: Home) -> None:
    zone = {
        ("a.test.", "A"): ["127.86.5.1"],
        ("b.test.", "A"): ["127.86.5.1"],
        ("c.test.", "A"): ["127.86.5.2"],
    }
    routes = "one.test:a.test\ntwo.test:b.test\nother.test:c.test"  # relays: exchangers in 127/8 would be ourselves
    with (
        mail_sink(address="127.86.5.1", port=25) as sink,
        mail_sink(address="127.86.5.2", port=25) as other,
        dns_peer(zone) as dns,
    ):
        settle(home, dnsservers=f"127.0.0.1:{dns.port}", remotereuse="20", smtproutes=routes)
        spawn = Spawn(home, "qmail-rspawn")
        for domain in ("one", "two", "two"):
            assert spawn.deliver(f"a@{domain}.test")[:1] == b"K"
        assert sink.connections == 1 and len(sink.taken) == 3
        assert [name for name, kind, _ in dns.asked if kind == "A"] == ["a.test.", "b.test."]
        assert spawn.deliver("a@other.test")[:1] == b"K"
        sink.wait(lambda: sink.open == 0, "end of the connection that is of no more use")
        assert (sink.connections, other.connections) == (1, 1)
        spawn.end()
