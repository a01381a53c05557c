"""The policy: the checks that a client's mail goes through, in the order of ``CHECKS``.

A check is asked when the client connects, for each sender, for each recipient, and when the message is whole. It
answers with a Verdict, or with None where it has nothing to say. The first verdict that carries a reply decides; what
others have found out before it goes into the decision line. SMTP, QMTP and QMQP ask the same checks.
"""

from functools import lru_cache

from pyqmail.incoming.check import Check, Rules, Seldom, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.recipient_check import RecipientCheck
from pyqmail.incoming.refusals import HOPS, NOBODY, NOT_ALLOWED, TOO_BIG
from pyqmail.protocol.smtp_server import declared_size

SIZE_SLACK = 1024  # bytes that Exim, Dovecot and nginx declare above the size; what comes is counted


class HopCount(Check):
    """Mail that goes round in circles."""

    name = "hops"

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        return Verdict(HOPS) if letter.looping else None


class MessageSize(Check):
    """databytes, for what is declared and for what comes."""

    name = "databytes"

    def __init__(self, rules: Rules) -> None:
        self._limit = rules.size_limit
        self.active = self._limit > 0

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        too_big = declared_size(letter.parameters) > self._limit + SIZE_SLACK
        return Verdict(TOO_BIG, at_once=True) if too_big else None

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        return Verdict(TOO_BIG) if letter.oversized else None


class AllowedRecipient(Check):
    """Who may not relay may send to our own domains only."""

    name = "rcpthosts"

    def __init__(self, rules: Rules) -> None:
        self._relaying = rules.relaying

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if client.relay is not None or self._relaying.accepts(address):
            return None
        return Verdict(NOT_ALLOWED)


class ExistingRecipient(Check):
    """A recipient in our own domains that is certainly nobody's."""

    name = "rcptcheck"

    def __init__(self, rules: Rules) -> None:
        self._check = RecipientCheck(rules.control, rules.home, rules.environ)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if client.relay is not None or 0 in address or self._check.exists(address):
            return None
        return Verdict(NOBODY)

    def close(self) -> None:
        self._check.close()


def listed(*names: str) -> tuple[str, ...]:
    """The files of lists, each as text and as a database."""
    return tuple(name + end for name in names for end in ("", ".cdb"))


AUTHENTICATING = ("spfbehavior", "dmarcbehavior", "domainkeys")  # where Authentication-Results is written
Kind = type[Check] | Seldom
CHECKS: tuple[Kind, ...] = (
    HopCount,
    Seldom("checks:MessageSize", "databytes", ("databytes",), (b"DATABYTES",)),
    Seldom("lists:BadSender", "badmailfrom", listed("badmailfrom", "badmailfromnorelay")),
    Seldom("lists:BadHelo", "badhelo", listed("badhelo", "badhelonorelay")),
    Seldom("own_sender:OwnSender", "mailfromrules", (), (b"FORCEAUTHMAILFROM", b"FORCEAUTHFROM")),
    Seldom("recipient_limits:BadRecipientLimit", "brtlimit", ("brtlimit",), (b"BRTLIMIT",)),
    Seldom("recipient_limits:Tarpit", "tarpitcount", ("tarpitcount",), (b"TARPITCOUNT",)),
    Seldom("lists:BadRecipient", "badrcptto", listed("badrcptto", "badrcpttonorelay")),
    AllowedRecipient,
    Seldom("lists:ValidRecipient", "validrcptto", (*listed("validrcptto"), "morevalidrcptto.cdb")),
    Seldom("recipients_file:ListedRecipient", "recipients", ("recipients",)),
    Seldom("lmtp_recipient:LmtpRecipient", "lmtp", ("smtproutes",)),
    Seldom("dns_lists:DnsLists", "dnsbllist", ("dnsbllist",), (b"DNSBLLIST",)),
    Seldom("srs_recipient:SrsRecipient", "srs", ("srs_domain",)),
    ExistingRecipient,
    Seldom("recipient_limits:RecipientLimit", "maxrcpt", ("maxrcpt", "maxrecipients"), (b"MAXRCPT", b"MAXRECIPIENTS")),
    Seldom("recipient_program:RecipientProgram", "RCPTCHECK", (), (b"RCPTCHECK",)),
    Seldom(
        "sender_authentication:SenderAuthentication",
        "spf, dkim, dmarc",
        AUTHENTICATING,
        (b"SPFBEHAVIOR", b"DMARCBEHAVIOR"),
    ),
    Seldom("own_author:OwnAuthor", "auth", AUTHENTICATING),
    Seldom("greylist:Greylist", "greylist", ("greylist",), (b"GREYLIST",)),
    Seldom("relay_limits:RelayLimit", "relaylimits", ("relaylimits",)),
)
VARIABLES = frozenset(name for kind in CHECKS if isinstance(kind, Seldom) for name in kind.variables)
TRUSTED_CHECKS: tuple[type[Check], ...] = (HopCount,)  # QMQP: tcpserver's rules have chosen its clients


class Hooks:
    """Which of some checks have something to say, by their places among them: who leaves a hook alone is not asked."""

    __slots__ = ("close", "connected", "holds", "message", "recipient", "recipients_max", "sender")

    def __init__(self, kinds: tuple[type[Check], ...]) -> None:
        self.connected = _having(kinds, "connected")
        self.sender = _having(kinds, "sender")
        self.recipient = _having(kinds, "recipient")
        self.message = _having(kinds, "message")
        self.holds = _having(kinds, "holds")
        self.close = _having(kinds, "close")
        self.recipients_max = _having(kinds, "recipients_max")


def _having(kinds: tuple[type[Check], ...], hook: str) -> tuple[int, ...]:
    return tuple(at for at, kind in enumerate(kinds) if getattr(kind, hook) is not getattr(Check, hook))


hooks_of = lru_cache(maxsize=64)(Hooks)  # the same for each session


@lru_cache(maxsize=64)
def wanted(
    kinds: tuple[Kind, ...], names: frozenset[str] | None, variables: frozenset[bytes]
) -> tuple[type[Check], ...]:
    """Those of ``kinds`` that a session has, where ``names`` are in control/ and ``variables`` are set."""
    found = []
    for kind in kinds:
        if not isinstance(kind, Seldom):
            found.append(kind)
        elif kind.wanted(names, variables):
            found.append(kind.load())
    return tuple(found)


class Checks:
    """The checks of one session. Making them raises ControlUnreadable, and so may each question."""

    def __init__(self, kinds: tuple[Kind, ...], rules: Rules) -> None:
        variables = VARIABLES.intersection(rules.environ)
        self._rules = rules
        self.notes = rules.notes  # what the log should hear of the checks themselves, once
        made = [kind(rules) for kind in wanted(kinds, rules.names, variables)]
        self._checks = [check for check in made if check.active]
        self._hooks = hooks_of(tuple(map(type, self._checks)))

    @property
    def recipients_max(self) -> int:
        """How many recipients a message may have, 0 for any number."""
        places = self._hooks.recipients_max
        return max(self._checks[at].recipients_max for at in places) if places else 0

    @property
    def names_relay_clients(self) -> bool:
        """Whether Received is to say that a client may relay: qmail-remote signs its mail then."""
        return "domainkeys" in (self._rules.names or ())

    @property
    def id_host(self) -> bytes:
        """The host in a Message-ID of ours. Raises ControlUnreadable."""
        return self._rules.site.id_host or b"localhost"

    def hold(self, client: Client) -> bool:
        """Whether a check wants the whole text of a message of this ``client``."""
        places = self._hooks.holds
        return bool(places) and any(self._checks[at].holds(client) for at in places)

    def connected(self, client: Client) -> Verdict | None:
        """The verdict on a client that has said nothing yet."""
        for at in self._hooks.connected:
            verdict = self._checks[at].connected(client)
            if verdict is not None and verdict.reply is not None:
                return verdict
        return None

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        """The verdict on the sender; what all that were asked have found is the letter's from now on."""
        for at in self._hooks.sender:
            verdict = self._checks[at].sender(client, letter)
            if verdict is not None and decides(verdict, letter):
                return verdict
        return None

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        """The verdict on one recipient; evidence as for the sender."""
        for at in self._hooks.recipient:
            verdict = self._checks[at].recipient(client, letter, address)
            if verdict is not None and decides(verdict, letter):
                if verdict.reply is not None and verdict.reply.code >= 500:
                    self._rules.bad_recipients += 1
                return verdict
        return None

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        """The verdict on the whole; evidence as for the sender."""
        for at in self._hooks.message:
            verdict = self._checks[at].message(client, letter)
            if verdict is not None and decides(verdict, letter):
                return verdict
        return None

    def close(self) -> None:
        """Give back what the checks have open."""
        for at in self._hooks.close:
            self._checks[at].close()


def decides(verdict: Verdict, letter: Letter) -> bool:
    """Keep its evidence; whether no other check is asked after it."""
    letter.evidence += verdict.evidence
    return verdict.reply is not None
