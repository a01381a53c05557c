"""What qmail-verifyd has found out about one message: as evidence, as fields above it, and as a reason to refuse it."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from pyqmail.formats.header import field_name
from pyqmail.formats.netstring import NetstringError, parse_netstrings
from pyqmail.incoming.check import Evidence
from pyqmail.incoming.client import Client
from pyqmail.mailauth.results import Result, authserv_id, format_received_spf, format_results
from pyqmail.protocol.reply import Reply

AUTHENTICATION_RESULTS = b"authentication-results"
FIELD_MAX = 65536  # bytes of an Authentication-Results field that is looked at; a longer one is left out
UNANSWERED = [(b"dmarc", b"temperror"), (b"problem", b"")]  # what is known of a text where nobody answers


class Judgement:
    """The answers about sender and text together; ``pairs`` is empty where the text was not asked about."""

    def __init__(self, sender: Mapping[bytes, bytes], pairs: list[tuple[bytes, bytes]]) -> None:
        self._sender = sender
        found = dict(pairs)
        self.asked_text = bool(pairs)
        self.author = found.get(b"author", b"")
        self.dmarc = found.get(b"dmarc", b"none")
        self.policy = found.get(b"policy", b"none")
        self._problem = found.get(b"problem", b"")
        self._arc = (found.get(b"arc", b"none"), found.get(b"arc-domain", b""), found.get(b"arc-reason", b""))
        self._signatures = [parts for name, value in pairs if name == b"dkim" if (parts := outcome_parts(value))]

    @property
    def unsure(self) -> bool:
        """Whether a later attempt may find out more."""
        return self.dmarc == b"temperror"

    @property
    def failed_for(self) -> bytes:
        """What the author's domain asks for, where the message does not meet its policy."""
        return self.policy if self.dmarc == b"fail" else b""

    @property
    def refusable(self) -> bool:
        """Whether the policy is to refuse it, or nobody can say whose policy counts."""
        return self.failed_for == b"reject" or (self.dmarc == b"permerror" and bool(self._problem))

    @property
    def refusal(self) -> Reply:
        """What the client hears of that."""
        if self._problem:
            return Reply(550, b"sorry, " + self._problem[:200] + b" (#5.7.1)")
        return Reply(550, b"DMARC: %b asks to refuse mail that it has neither signed nor sent (#5.7.1)" % self.author)

    def signed_by(self, domains: Iterable[bytes]) -> bool:
        """Whether one of ``domains`` has a right signature."""
        passed = {parts[1].lower() for parts in self._signatures if parts[0] == b"pass"}
        return not passed.isdisjoint(domain.lower() for domain in domains)

    @property
    def evidence(self) -> Evidence:
        """For the decision line."""
        if not self.asked_text:
            return ()
        results = [parts[0] for parts in self._signatures]
        best = next(
            (each for each in (b"pass", b"temperror", b"policy", b"fail", b"permerror") if each in results), b"none"
        )
        return ((b"dkim", best), (b"dmarc", self.dmarc))

    def fields(self, authserv_id: bytes, client: Client, sender: bytes, *, marked: bool) -> bytes:
        """What goes above our Received."""
        spf, domain = self._sender[b"spf"], self._sender.get(b"domain", b"")
        helo = client.helo or b""
        identity = (b"smtp.mailfrom", sender) if sender else (b"smtp.helo", helo)
        results = [Result(b"spf", spf, [identity], reason=self._sender.get(b"problem", b""))]
        if self.asked_text:
            results += self._text_results()
        mark = b"X-DMARC-Policy: quarantine; %b\n" % (self.author or domain) if marked else b""
        received = format_received_spf(
            spf,
            client.ip,
            sender,
            helo,
            authserv_id,
            self._sender.get(b"mechanism", b""),
            self._sender.get(b"problem", b""),
        )
        return mark + format_results(authserv_id, results) + received

    def _text_results(self) -> Iterator[Result]:
        for result, domain, selector, identity, algorithm, value, reason, key in self._signatures:
            properties = [
                (b"header.d", domain), (b"header.i", identity), (b"header.s", selector), (b"header.a", algorithm),
                (b"header.b", value[:8]),
            ]  # fmt: skip
            yield Result(b"dkim", result, properties, reason=reason, comment=key)
        if not self._signatures:
            yield Result(b"dkim", b"none")
        comment = b"p=" + self.policy if self.dmarc == b"fail" else b""
        yield Result(b"dmarc", self.dmarc, [(b"header.from", self.author)], reason=self._problem, comment=comment)
        if self._arc[0] != b"none":
            yield Result(b"arc", self._arc[0], [(b"header.d", self._arc[1])], reason=self._arc[2])


def outcome_parts(value: bytes) -> "tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes] | None":
    """Result, domain, selector, identity, algorithm, value, reason and key of one signature; None for anything else."""
    try:
        result, domain, selector, identity, algorithm, signature, reason, key = parse_netstrings(value)
    except (NetstringError, ValueError):
        return None
    return result, domain, selector, identity, algorithm, signature, reason, key


def without_results_of(name: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``pieces`` of a message without the Authentication-Results fields of its header that claim to be ``name``'s."""
    source = iter(pieces)
    first = next(source, b"")
    end = first.find(b"\n\n")
    if end >= 0 and AUTHENTICATION_RESULTS not in first[:end].lower():  # as most mail is: there is nothing to look for
        return chain((first,), source)
    return _without_results_of(name, chain((first,), source))


def _without_results_of(name: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest, field, header = b"", b"", True  # a line that has not ended, and a field that may have to go
    for piece in pieces:
        if not header:
            yield piece
            continue
        lines = _lines(rest + piece)
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < FIELD_MAX else b""
        passed = []
        for line in lines:
            if header and field and line[:1] in (b" ", b"\t"):
                field += line[:FIELD_MAX]
                continue
            if field:
                passed.append(_kept(field, name))
                field = b""
            header = header and line != b"\n"
            if header and field_name(line) == AUTHENTICATION_RESULTS:
                field = line
            else:
                passed.append(line)
        if not header:
            passed.append(rest)
            rest = b""
        if text := b"".join(passed):
            yield text
    if field or rest:
        yield (_kept(field + rest, name) if rest[:1] in (b" ", b"\t") else _kept(field, name) + rest) if field else rest


def _lines(text: bytes) -> list[bytes]:
    """``text`` cut after each LF only."""
    parts = text.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _kept(field: bytes, name: bytes) -> bytes:
    """``field``, or nothing of it where it claims to be ``name``'s, or is too long to say whose it is."""
    if len(field) >= FIELD_MAX or authserv_id(field.partition(b":")[2][:4096]) == name:
        return b""
    return field
