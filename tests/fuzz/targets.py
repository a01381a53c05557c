"""What is fuzzed: each function takes any bytes and raises nothing but what the code under it documents.

Beside "no other exception" and "an end in bounded time" each says what must hold: pieces do not matter, what was
written is read again, a damaged database never lets a stranger relay.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast
from unittest import mock

from pyqmail import address, envelope
from pyqmail.control import Control, ControlUnreadable, parse_integer, parse_line, parse_lines, parse_mapping
from pyqmail.formats import (
    address_list,
    aliases,
    assign,
    dotqmail,
    facts,
    forwarding,
    header,
    mailline,
    netstring,
    report,
    rfc822,
    todo,
)
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.incoming import decisions
from pyqmail.intake.client import Injection
from pyqmail.policy import classify, forwards, patterns, relaying, routing_wire, users
from pyqmail.protocol import (
    clean,
    control,
    dns,
    logins,
    message_body,
    pop3,
    queued,
    recipients,
    sasl,
    smtp_client,
    smtp_server,
    spawn,
)
from pyqmail.protocol.qmqp import QmqpReader
from pyqmail.protocol.qmtp import QmtpReader
from pyqmail.remote import routes, tcpto
from pyqmail.spool import channel
from pyqmail.spool import facts as spool_facts
from pyqmail.tcp import tcprules
from tests.fuzz.mail_authentication import (
    reports_and_lists,
    results_fields,
    sender_records,
    signed_messages,
    srs_addresses,
)
from tests.fuzz.tls import certificate_files, handshakes
from tests.programs.test_smtp_fuzz import Queue, Queued, converse

SLOWLY = 400  # bytes that are also given one at a time
HERE = b"here.test"


def slowly(data: bytes) -> list[bytes]:
    """``data`` in single bytes, the rest in one piece."""
    return [data[at : at + 1] for at in range(min(len(data), SLOWLY))] + [data[SLOWLY:]]


def fed(feed: Callable[[bytes], Iterable[object]], pieces: Iterable[bytes]) -> list[object]:
    """All that ``feed`` gives for ``pieces``."""
    return [item for piece in pieces for item in feed(piece)]


@cache
def tree() -> Path:
    """A home of this process."""
    home = Path(tempfile.mkdtemp(prefix="pyqmail-fuzz-"))
    (home / "control").mkdir()
    (home / "control/me").write_bytes(b"mx.test\n")
    (home / "control/rcpthosts").write_bytes(HERE + b"\n.sub.test\n")
    (home / "control/databytes").write_bytes(b"400\n")
    (home / "control/chunking").write_bytes(b"1\n")
    return home


class Session:
    """One conversation with qmail-smtpd, its queue a stand-in."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.queued: list[Queued] = []
        environ = {b"TCPREMOTEIP": b"192.0.2.7", b"QMAILQUEUE": b"none", b"QMAIL_HOME": str(tree()).encode()}
        with (
            mock.patch.object(Injection, "open", lambda *_, **__: Queue(self.queued)),
            mock.patch.object(decisions, "log_mode", lambda _environ, sockets: 0),
            mock.patch("pyqmail.incoming.letter.time.time", lambda: 1000000000.0),
        ):
            _, self.said = converse(str(tree()), environ, pieces)


def smtp(data: bytes) -> None:
    """Commands and data: answers do not depend on the pieces, and nobody relays."""
    whole = Session([data])
    assert (whole.said, whole.queued) == ((again := Session(slowly(data))).said, again.queued)
    for _, _, accepted, failed in whole.queued:
        for recipient in () if failed else accepted:
            host = recipient.lower().rpartition(b"@")[2] if b"@" in recipient else HERE
            assert host == HERE or host.endswith(b".sub.test"), recipient


def tcp_rules(data: bytes) -> None:
    """Rules as text, and what they decide; then any bytes as a compiled rule."""
    records: dict[bytes, bytes] = {}
    with suppress(tcprules.BadRule):
        for key, value in itertools.islice(tcprules.parse_rules(data), 2000):
            records.setdefault(key, value)
    for ip in (b"192.0.2.1", b"2001:db8::1", b"::ffff:192.0.2.1", data[:50]):
        tcprules.decide(records.get, ip, data[:40], data[40:60])
    tcprules.decide(lambda _: data, b"192.0.2.1", None, None)


def control_files(data: bytes) -> None:
    """Lines, numbers, maps, routes and domains."""
    assert b"\n" not in parse_line(data)
    number = parse_integer(data)
    assert number is None or number >= 0
    lines, mapping = parse_lines(data), parse_mapping(data)
    for host in (b"a.example.org", *lines[:20]):
        routes.find_route(mapping, host)
    routing = classify.Routing(b"d.test", frozenset(lines), frozenset(lines[:2]), mapping)
    for recipient in (b"a@b", *lines[:20]):
        where, rewritten = classify.classify(recipient, routing)
        assert where in ("local", "remote")
        classify.strip_prepend(rewritten, mapping)
        classify.variable_sender(recipient, rewritten)
    (record,) = netstring.parse_netstrings(routing_wire.format_routing(routing))
    assert routing_wire.parse_routing(record) == routing
    with suppress(netstring.NetstringError, ValueError):
        routing_wire.parse_routing(data)


def control_directory(data: bytes) -> None:
    """Any bytes as each control file that a receiver reads: a value, or ControlUnreadable."""
    folder = tree() / "fuzzed"
    (folder / "control").mkdir(parents=True, exist_ok=True)
    for name in ("me", "databytes", "rcpthosts", "badmailfrom", "morercpthosts.cdb"):
        (folder / "control" / name).write_bytes(data)
    with suppress(ControlUnreadable):
        found = Control(str(folder))
        relaying.size_limit(found, {b"DATABYTES": data})
        rules = relaying.Relaying(found)
        try:
            assert not rules.accepts(b"x@never-listed.example") or b"example" in data.lower()
        finally:
            rules.close()
    listed = patterns.PatternList(data[:400])
    assert listed.match(b"joe@host.example", patterns.address_keys(b"joe@host.example")) is None or listed


def dot_qmail(data: bytes) -> None:
    """Instructions, and names for any extension, which stay names in the home."""
    for kind, argument in dotqmail.parse_lines(data):
        assert b"\n" not in argument and kind
    names = [name for name, _ in dotqmail.candidates(b"-", data[:200])]
    assert all(name.startswith(b".qmail-") for name in names + list(dotqmail.owner_names(b"-", data[:200])))


def addresses(data: bytes) -> None:
    """What qmail-smtpd and the header code make of an address; quoting is undone by parsing."""
    smtp_server.parse_command(data)
    smtp_server.parse_address(data)
    if b"\0" not in data and b"@" in data:
        assert (
            smtp_server.parse_address(b"TO:<" + address.quote(data) + b">").rpartition(b"@")[0]
            == (data.rpartition(b"@")[0])
        )
    rules = rfc822.Rules(b"host", b"domain", b"plus")
    assert all(b"\0" not in found and found for found in address_list.parse_addresses(data))
    address_list.complete_list(data, rules)
    try:
        tokens = rfc822.tokenize(data)
        assert rfc822.tokenize(rfc822.format_tokens(tokens)) is not None
        rfc822.rewrite_list(tokens, lambda one: rfc822.complete(one, rules))
        rfc822.plain_address(tokens)
    except (rfc822.LexicalError, rfc822.StructureError):
        pass


def headers(data: bytes) -> None:
    """Header lines lose nothing; the lines that delivery writes are one line each."""
    fields = header.Header()
    for line in data.splitlines(keepends=True):
        if not fields.add(line):
            break
    fields.end()
    assert all(text.endswith(b"\n") for _, text in fields.fields)
    for line in (mailline.format_return_path(data), mailline.format_delivered_to(data)):
        assert line.count(b"\n") == 1
    assert mailline.format_from_line(data, 1000000000).count(b"\n") == 1
    whole = b"".join(mailline.mbox_body([data]))
    assert not any(line.startswith(b"From ") for line in whole.split(b"\n"))


def queue_files(data: bytes) -> None:
    """todo/N, info/N, local/N and the time-out table."""
    with suppress(todo.UnknownRecord):
        found = todo.parse_todo(data)
        assert all(b"\0" not in recipient for recipient in (found.sender, *found.recipients))
    whole = fed(todo.RecipientParser().feed, [data])
    assert whole == fed(todo.RecipientParser().feed, slowly(data))
    path = tree() / "local"
    path.write_bytes(data)
    recipients_of = channel.RecipientFile(str(path))
    try:
        with suppress(channel.UnknownMark, OSError):
            for _ in range(data.count(b"\0") + 2):
                if recipients_of.next_not_done() is None:
                    break
            else:
                raise AssertionError("more recipients than records")
    finally:
        recipients_of.close()
    with suppress(channel.UnknownMark, ValueError):
        channel.recipients_at(str(path), (0, len(data) // 2))
    with suppress(channel.UnknownMark, ValueError, OSError):
        channel.read_info(str(path))
    list(tcpto.parse_table(data[:1024]))


def message_facts(data: bytes) -> None:
    """$QMAILFACTS and the file of a message's facts: what is read is written alike, and a forward has no more."""
    with suppress(facts.FactsError):
        found = facts.parse_facts(data)
        made = facts.format_facts(found, data)
        assert len(made) > facts.FACTS_MAX or not made or facts.parse_facts(made).requiretls == found.requiretls
        facts.belong_to(data, b"a", [b"b"])
    assert len(forwards.facts_of_forward(data, data, data, [b"a"], alone=False)) <= facts.FACTS_MAX
    path = tree() / "mess"
    path.write_bytes(data)
    message = os.open(path, os.O_RDONLY)
    try:
        with suppress(spool_facts.FactsLost):
            spool_facts.unpack(data, message)
    finally:
        os.close(message)


def envelopes(data: bytes) -> None:
    """The envelope that qmail-queue reads."""
    ends = []
    for pieces in ([data], slowly(data)):
        parser, kept, code = envelope.EnvelopeParser(), b"", 0
        try:
            for piece in pieces:
                if not parser.done:
                    kept += parser.feed(piece)
        except envelope.EnvelopeError as error:
            code = error.exit_code
        ends.append((code, parser.done, kept if not code else b""))
    assert ends[0] == ends[1]


def netstrings(data: bytes) -> None:
    """Netstrings, QMTP and QMQP."""
    with suppress(netstring.NetstringError):
        netstring.parse_netstrings(data)
    assert netstring.parse_netstrings(netstring.format_netstring(data)) == [data]
    for make in (QmtpReader, QmqpReader):
        ends = []
        for pieces in ([data], slowly(data)):
            reader = make()
            events = [event for piece in pieces for event in reader.feed(piece)]
            told = [event for event in events if event[0].name != "TEXT"]
            text = b"".join(event[1] or b"" for event in events if event[0].name == "TEXT")
            ends.append((told, text, type(reader.fault)))
        assert ends[0] == ends[1]


def dns_answers(data: bytes) -> None:
    """What a hostile name server sends, and names for it."""
    for kind in dns.Kind:
        with suppress(dns.BadAnswer):
            dns.parse_answer(data, kind)
    dns.answers(data, b"\0\1" + bytes(10) + data[12:])
    if len(data) >= 12:
        dns.truncated(data)
    for host in (data[:300], data[:300].replace(b"\0", b"").lower()):
        with suppress(dns.BadName):
            dns.format_query(dns.parse_host(host), dns.Kind.MX, number=7, edns=True)
    dns.parse_literal(data)


def remote_replies(data: bytes) -> None:
    """What a hostile SMTP server says: a report comes of it, and nothing of ours is smuggled."""
    reports = []
    for pieces in ([data], slowly(data)):
        talk = smtp_client.Dialogue(b"peer", b"me", b"a@b", [b"c@d", b"e@f"])
        waiting = list(pieces)
        for _ in range(len(data) + SLOWLY + 20):
            step = talk.step()
            if isinstance(step, smtp_client.Finish):
                reports.append((step.report, talk.reports))
                assert step.report[:1] in b"KZD" and b"\0" not in step.report
                break
            if isinstance(step, smtp_client.Await):
                if not waiting:
                    reports.append((b"", talk.reports))
                    break
                talk.feed(waiting.pop(0))
            elif isinstance(step, smtp_client.Send):
                assert all(one.endswith(b"\r\n") for one in step.line.splitlines(keepends=True))
        else:
            raise AssertionError("the dialogue does not end")
    assert reports[0] == reports[1]
    encoder = message_body.BodyEncoder()
    wire = encoder.encode(data)
    end = encoder.finish()
    if end is not None:
        assert b"\r\n.\r\n" not in (b"\r\n" + wire)[: len(wire) + 2]
    stored = bytearray()
    report.append_remote(stored, data)
    for status in (0, 1, 111, None):
        assert report.remote_report(status, bytes(stored))[:1] in (b"K", b"Z", b"D")
        assert report.local_report(status, data)[:1] in (b"K", b"Z", b"D")
    report.with_recipients(data, 3)


def databases(data: bytes) -> None:
    """A damaged constant database: found, not found or CdbCorrupt, in bounded time."""
    fd = os.memfd_create("cdb")
    try:
        os.write(fd, data)
        with suppress(CdbCorrupt):
            database = Cdb(fd)
            for key in (b"", b"!ann\0", b"example.org", data[:20]):
                with suppress(CdbCorrupt):
                    database.get(key)
            with suppress(CdbCorrupt):
                tcprules.decide(database.get, b"192.0.2.1", b"host.example.org", None)
            with suppress(CdbCorrupt, users.UsersTrouble):
                record = users.find_record(database.get, b"ann-ext")
                users.parse_assignment(record or b"")
            for count, _ in enumerate(database.records()):
                assert count <= len(data) // 8
    finally:
        os.close(fd)


def assignments(data: bytes) -> None:
    """users/assign: whole or refused; a number that is none is root, whom nothing is delivered as."""
    records: dict[bytes, bytes] = {}
    with suppress(assign.AssignFormat):
        for key, value in assign.parse_assign(data):
            records.setdefault(key, value)
    local = data[:20].lower()
    with suppress(users.UsersTrouble):
        record = users.find_record(records.get, local)
        found = users.parse_assignment(record) if record is not None else None
        assert found is None or found.uid >= 0
    users.parse_assignment(data)


def wires(data: bytes) -> None:
    """The pipes between qmail's programs, and the sockets of the services."""
    for wide, joint in ((False, False), (True, False), (True, True)):
        commands = spawn.CommandParser(), spawn.CommandParser()
        reports = spawn.ReportParser(), spawn.ReportParser()
        for parser in (*commands, *reports):
            parser.wide, parser.joint = wide, joint
        assert fed(commands[0].feed, [data]) == fed(commands[1].feed, slowly(data))
        assert fed(reports[0].feed, [data]) == fed(reports[1].feed, slowly(data))
    spawn.parse_probe_answer(spawn.Report(spawn.PROBE_SLOT, spawn.PROBE_LETTER, data))
    requests, pieces = (fed(clean.RequestReader().feed, each) for each in ([data], slowly(data)))
    assert [clean.parse_request(one) for one in requests] == [clean.parse_request(one) for one in pieces]
    with suppress(control.BadRequest):
        control.parse_request(data)
    recipients.parse_question(data)
    request = queued.parse_request(data)
    if request is not None and request[2] is not None:
        serial, facts, (message, envelope) = request
        assert queued.format_whole(message, envelope, serial=serial, facts=facts) == data
    queued.parse_answer(data)
    for line in data.split(b"\n"):
        _, argument = pop3.parse_command(line)
        pop3.leading_number(argument)


def logging_in(data: bytes) -> None:
    """AUTH: any command and any answers; and the questions of qmail-authd."""
    argument, *answers = data.split(b"\n")
    exchange = sasl.begin(argument, b"LOGIN PLAIN CRAM-MD5", b"<1.2@mx.test>")
    with suppress(sasl.Cancelled, sasl.Malformed):
        found = None if exchange is None else answered(exchange, answers)
        if found is not None and found.possible:
            parsed = logins.parse_question(logins.format_question(found, b"192.0.2.1"))
            assert parsed is not None and parsed[1] == b"192.0.2.1"
            assert (parsed[0].user, parsed[0].secret) == (found.user, found.secret)
            assert b"\0" not in found.user and b"\n" not in found.user
    logins.parse_question(data)


def answered(exchange: "sasl.Exchange", answers: Iterable[bytes]) -> sasl.Credentials | None:
    """What the exchange comes to; None where the answers end first."""
    try:
        next(exchange)
        for answer in answers:
            exchange.send(answer)
    except StopIteration as end:
        return cast("sasl.Credentials", end.value)
    return None


def alias_files(data: bytes) -> None:
    """/etc/aliases, included lists, forward sources and their databases' records."""
    completion = aliases.Completion(b"host", b"domain", b"plus")
    with suppress(aliases.ListError):
        aliases.parse_aliases(data, completion)
    with suppress(aliases.ListError):
        aliases.parse_include(data, completion)
    with suppress(forwarding.SourceError):
        for key, commands in forwarding.parse_source(data):
            with suppress(forwarding.BadFormat):
                forwarding.format_instruction(key, commands)
    with suppress(forwarding.BadFormat):
        forwarding.parse_commands(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        smtp, tcp_rules, control_files, control_directory, dot_qmail, addresses, headers, queue_files, message_facts,
        envelopes,
        netstrings, dns_answers, remote_replies, databases, assignments, wires, alias_files,
        logging_in, certificate_files, handshakes,
        sender_records, signed_messages, results_fields, srs_addresses, reports_and_lists,
    )
}  # fmt: skip
