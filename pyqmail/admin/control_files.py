"""Every control file: its form, what is said about it, its default, who reads it and when (qmail-control(5)).

The order is that of qmail-showctl(8). Files that only this qmail has, or that are a custom of admins rather than of
the original, are marked ``ours``.
"""

from dataclasses import dataclass
from enum import Enum


class Form(Enum):
    """How a file is read."""

    LINE = "line"
    INTEGER = "number"
    LIST = "list"
    MAP = "map"
    CDB = "database"
    PEM = "PEM"  # certificates, and where it is so a private key, which is shown to nobody
    SECRET = "secrets"  # shown to nobody
    DIRECTORY = "directory"


START = "at each start"
CONNECTION = "for each connection"
DELIVERY = "for each delivery"
CHECK = "for each check"
RUN = "each time it runs"
HANGUP = "at start and on HUP"
SEND = ("qmail-send",)
SMTPD = ("qmail-smtpd",)
TLS_SERVERS = ("qmail-smtpd", "qmail-popup")
ACCOUNTS = ("qmail-accounts", "qmail-accountsd")
AUTHD = ("qmail-authd",)
INCOMING = ("qmail-smtpd", "qmail-qmtpd")
DOORS = ("qmail-smtpd", "qmail-qmtpd", "qmail-qmqpd")
METRICS = ("qmail-metrics",)
XFER = ("qmail-xferd", "qmail-q")
REMOTE = ("qmail-remote",)
LOCAL = ("qmail-local",)
LSPAWN = ("qmail-lspawn",)
FORWARDING = ("qmail-lspawn", "qmail-rcptd", "srsfilter")
SOON = "within a second"
REPORTING = ("qmail-verifyd", "qmail-dmarcreport")
RESOLVING = ("qmail-remote", "qmail-verifyd")
INJECT = ("qmail-inject", "sendmail", "newaliases", "newinclude", "dot-forward")
ALL = ("every program",)


@dataclass(frozen=True, slots=True)
class ControlFile:
    """One file of the control directory.

    ``before`` and ``after`` stand around its value; ``default`` is the built-in value, ``absent`` the sentence for a
    list file that is not there. ``or_me``: control/me stands in for the missing file.
    """

    name: str
    form: Form
    before: str
    after: str
    default: str
    absent: str
    readers: tuple[str, ...]
    when: str
    or_me: bool = False
    ours: bool = False


def _line(
    name: str, before: str, default: str, readers: tuple[str, ...], when: str, *, me: bool = False, ours: bool = False
) -> ControlFile:
    return ControlFile(name, Form.LINE, before, ".", default, "", readers, when, me, ours)


def _number(
    name: str, before: str, after: str, default: str, readers: tuple[str, ...], when: str, *, ours: bool = False
) -> ControlFile:
    return ControlFile(name, Form.INTEGER, before, after + ".", default, "", readers, when, False, ours)


def _list(
    name: str,
    before: str,
    after: str,
    absent: str,
    readers: tuple[str, ...],
    when: str,
    *,
    form: Form = Form.LIST,
    ours: bool = False,
) -> ControlFile:
    return ControlFile(name, form, before, after, "", absent, readers, when, name == "locals", ours)


def _refused(name: str, what: str, readers: tuple[str, ...]) -> tuple[ControlFile, ControlFile]:
    """A list of what is refused, and its database."""
    database = ControlFile(name + ".cdb", Form.CDB, "", "", "", "No effect.", readers, CONNECTION, ours=True)
    return _list(
        name, "", f" not accepted as {what}.", f"Anything is accepted as {what}.", readers, CONNECTION, ours=True
    ), database


_RECIPIENTS = "SMTP clients may send messages to recipients at "
_LOCAL = "Messages for me are delivered locally."
_RCPTHOSTS_ABSENT = "SMTP clients may send messages only to me and locals."  # the original: to any recipient

ORIGINAL: tuple[ControlFile, ...] = (
    _list("badmailfrom", "", " not accepted in MAIL FROM.", "Any MAIL FROM is allowed.", INCOMING, CONNECTION),
    _line("bouncefrom", "Bounce user name is ", "MAILER-DAEMON", SEND, HANGUP),
    _line("bouncehost", "Bounce host name is ", "bouncehost", SEND, HANGUP, me=True),
    _number("concurrencylocal", "Local concurrency is ", "", "10", SEND, HANGUP),
    _number("concurrencyremote", "Remote concurrency is ", "", "20", SEND, HANGUP),
    _number("databytes", "SMTP DATA limit is ", " bytes", "0", INCOMING, CONNECTION),
    _line("defaultdomain", "Default domain name is ", "defaultdomain", INJECT, RUN, me=True),
    _line("defaulthost", "Default host name is ", "defaulthost", INJECT, RUN, me=True),
    _line("doublebouncehost", "2B recipient host: ", "doublebouncehost", SEND, HANGUP, me=True),
    _line("doublebounceto", "2B recipient user: ", "postmaster", SEND, HANGUP),
    _line("envnoathost", "Presumed domain name is ", "envnoathost", SEND, HANGUP, me=True),
    _line("helohost", "SMTP client HELO host name is ", "helohost", REMOTE, DELIVERY, me=True),
    _line("idhost", "Message-ID host name is ", "idhost", INJECT, RUN, me=True),
    _line("localiphost", "Local IP address becomes ", "localiphost", SMTPD, CONNECTION, me=True),
    _list("locals", "Messages for ", " are delivered locally.", _LOCAL, SEND, HANGUP),
    _line("me", "My name is ", "undefined! Uh-oh", ALL, START),
    _list(
        "percenthack",
        "The percent hack is allowed for user%host@",
        ".",
        "The percent hack is not allowed.",
        SEND,
        HANGUP,
    ),
    _line("plusdomain", "Plus domain name is ", "plusdomain", INJECT, RUN, me=True),
    _list("qmqpservers", "QMQP server: ", ".", "No QMQP servers.", ("qmail-qmqpc",), RUN),
    _number("queuelifetime", "Message lifetime in the queue is ", " seconds", "604800", SEND, HANGUP),
    _list("rcpthosts", _RECIPIENTS, ".", _RCPTHOSTS_ABSENT, INCOMING, CONNECTION),
    _list("morercpthosts", _RECIPIENTS, ".", "No effect.", ("qmail-newmrh",), RUN),
    ControlFile("morercpthosts.cdb", Form.CDB, "", "", "", "No effect.", INCOMING, CONNECTION),
    _line("smtpgreeting", "SMTP greeting: 220 ", "smtpgreeting", SMTPD, CONNECTION, me=True),
    _list("smtproutes", "SMTP route: ", "", "No artificial SMTP routes.", REMOTE, DELIVERY, form=Form.MAP),
    _number("timeoutconnect", "SMTP client connection timeout is ", " seconds", "60", REMOTE, DELIVERY),
    _number("timeoutremote", "SMTP client data timeout is ", " seconds", "1200", REMOTE, DELIVERY),
    _number("timeoutsmtpd", "SMTP server data timeout is ", " seconds", "1200", SMTPD, CONNECTION),
    _list("virtualdomains", "Virtual domain: ", "", "No virtual domains.", SEND, HANGUP, form=Form.MAP),
)

# Shown only where they exist, after the original's own.
OURS: tuple[ControlFile, ...] = (
    *_refused("badhelo", "the name in HELO", SMTPD),
    *_refused("badhelonorelay", "the name in HELO of clients that may not relay", SMTPD),
    ControlFile("badmailfrom.cdb", Form.CDB, "", "", "", "No effect.", INCOMING, CONNECTION, ours=True),
    *_refused("badmailfromnorelay", "MAIL FROM of clients that may not relay", INCOMING),
    *_refused("badrcptto", "RCPT TO", INCOMING),
    *_refused("badrcpttonorelay", "RCPT TO of clients that may not relay", INCOMING),
    _number("brtlimit", "A session ends after ", " bad recipients", "0", INCOMING, CONNECTION, ours=True),
    _list(
        "authsenders",
        "Route by sender: ",
        "",
        "No routes by sender.",
        REMOTE,
        DELIVERY,
        ours=True,
        form=Form.MAP,
    ),
    _line("authservid", "Results are said in the name of ", "authservid", INCOMING, CONNECTION, me=True, ours=True),
    _number("bouncemaxbytes", "Bytes of the original in a bounce: ", "", "all of it", SEND, HANGUP, ours=True),
    ControlFile(
        "clientca.pem",
        Form.PEM,
        "Authorities for client certificates",
        "",
        "",
        "None.",
        TLS_SERVERS,
        CONNECTION,
        ours=True,
    ),
    ControlFile(
        "clientcrl.pem", Form.PEM, "Revoked client certificates", "", "", "None.", TLS_SERVERS, CONNECTION, ours=True
    ),
    _number("concurrencyincoming", "SMTP sessions at once: ", "", "40", ("run file of qmail-smtpd",), START, ours=True),
    _line("conf-verifier", "qmail-verifyd is the user ", "qmailv", ("qmail-verifyd",), START, ours=True),
    _line("conf-metrics", "qmail-metrics is the user ", "qmailm", METRICS, START, ours=True),
    _line("conf-break", "User-ext delimiter is ", "-", ALL, START, ours=True),
    _list("conf-groups", "Group: ", "", "Groups are qmail and nofiles.", ALL, START, ours=True),
    _line("conf-patrn", "Mode bits forbidden for .qmail files and homes, in octal: ", "002", ALL, START, ours=True),
    _number(
        "conf-queueslots", "Open submissions of one user are at most ", "", "100", ("qmail-queued",), START, ours=True
    ),
    _number("conf-spawn", "Deliveries at once of one spawner are at most ", "", "120", ALL, START, ours=True),
    _number("conf-split", "Subdirectories of the queue: ", "", "23", ALL, START, ours=True),
    _list("conf-users", "User: ", "", "Users are those of the original.", ALL, START, ours=True),
    _list("filterargs", "Filter: ", "", "No deliveries are filtered.", ("spawn-filter",), DELIVERY, ours=True),
    _list("factsafe", "Keeps facts: ", "", "No QMAILQUEUE program keeps facts.", INCOMING, CONNECTION, ours=True),
    _list(
        "defaultdelivery", "Default delivery: ", "", "No default.", ("run file of qmail-send", "rc"), START, ours=True
    ),
    _number(
        "dnsblfailclosed",
        "A DNS list that is down defers mail unless this is 0: ",
        "",
        "0",
        INCOMING,
        CONNECTION,
        ours=True,
    ),
    _list("dnsbllist", "DNS list of clients: ", "", "No DNS list is asked.", INCOMING, CONNECTION, ours=True),
    _number("chunking", "CHUNKING is offered unless this is 0: ", "", "0", INCOMING, CONNECTION, ours=True),
    _number("requiretls", "REQUIRETLS is offered unless this is 0: ", "", "0", INCOMING, CONNECTION, ours=True),
    _number("smtputf8", "SMTPUTF8 is offered unless this is 0: ", "", "0", INCOMING, CONNECTION, ours=True),
    _number("dsndelay", "Senders who asked hear of a delay after ", " seconds", "14400", SEND, HANGUP, ours=True),
    _number("dsnpublic", "DSN is offered to everybody unless this is 0: ", "", "0", INCOMING, CONNECTION, ours=True),
    _number("dsnbounces", "Bounces are multipart/report unless this is 0: ", "", "0", SEND, HANGUP, ours=True),
    _number("dmarcbehavior", "What is done about DMARC, from 0 to 4: ", "", "0", INCOMING, CONNECTION, ours=True),
    _line("dmarcreports", "Reports about DMARC come from ", "nobody", REPORTING, "for each message", ours=True),
    _list("dmarcwhite", "Let in when signed by ", ".", "DMARC has no exceptions.", INCOMING, CONNECTION, ours=True),
    _list(
        "danetest",
        "A name that the resolver is tested with before DANE: ",
        "",
        "The resolver is tested before DANE with ietf.org, which is signed, and dnssec-failed.org, wrongly.",
        REMOTE,
        DELIVERY,
        ours=True,
    ),
    _list("dnsservers", "DNS server: ", "", "DNS servers are those of resolv.conf.", RESOLVING, DELIVERY, ours=True),
    _list(
        "domainconcurrency",
        "Deliveries at once to one domain: ",
        "",
        "No domain has a limit of its own; each may use three quarters of concurrencyremote.",
        SEND,
        HANGUP,
        ours=True,
        form=Form.MAP,
    ),
    ControlFile("accounts", Form.SECRET, "Accounts of a database", "", "", "None.", ACCOUNTS, RUN, ours=True),
    _list("authd", "Passwords are checked by ", ".", "Nobody checks passwords for AUTH.", AUTHD, CHECK, ours=True),
    _number(
        "authcachettl", "A password that was right is not hashed again for ", " seconds", "60", AUTHD, CHECK, ours=True
    ),
    _number(
        "greylist", "A stranger who is new has to come again after ", " seconds", "0", INCOMING, CONNECTION, ours=True
    ),
    _list(
        "greylist.white",
        "Need not come again: ",
        ".",
        "Greylisting has no exceptions.",
        INCOMING,
        CONNECTION,
        ours=True,
    ),
    _list("greetdelay.white", "Greeted at once: ", ".", "No effect.", ("qmail-smtpd",), CONNECTION, ours=True),
    _number(
        "incomingmax",
        "Messages that wait for a check take on the disk at most ",
        " bytes",
        "1073741824",
        INCOMING,
        CONNECTION,
        ours=True,
    ),
    _line("limitalert", "Who is over a limit is told to ", "nobody", ("qmail-stated",), CHECK, ours=True),
    _number("logdecisions", "Decisions are logged unless this is 0: ", "", "1", DOORS, CONNECTION, ours=True),
    _line(
        "logformat", "The log's lines are ", "classic", (*SEND, *DOORS), "at start, or for each connection", ours=True
    ),
    _list(
        "mailfromrules",
        "May send as: ",
        ".",
        "Users send as themselves only, where FORCEAUTHMAILFROM is set.",
        SMTPD,
        CONNECTION,
        ours=True,
    ),
    _line("maildirquota", "Of a Maildir without a quota of its own it is ", "not counted", LOCAL, DELIVERY, ours=True),
    _number("maxrcpt", "Recipients of one message are at most ", "", "0", INCOMING, CONNECTION, ours=True),
    _number("maxrecipients", "Where there is no maxrcpt, they are at most ", "", "0", INCOMING, CONNECTION, ours=True),
    _list(
        "metricslisten", "Metrics are told at ", ".", "Metrics are told at 127.0.0.1:9925.", METRICS, START, ours=True
    ),
    ControlFile("metricstoken", Form.SECRET, "Token of qmail-metrics", "", "", "None.", METRICS, START, ours=True),
    ControlFile(
        "metricscert.pem", Form.PEM, "Certificate of qmail-metrics", "", "", "None.", METRICS, CONNECTION, ours=True
    ),
    _line("metricsfile", "Counters are written to ", "", SEND, HANGUP, ours=True),
    _line("mtasts", "MTA-STS policies are asked for at ", "nowhere", REMOTE, DELIVERY, ours=True),
    _line("tlspolicy", "What DANE and MTA-STS ask for is said or enforced: ", "enforce", REMOTE, DELIVERY, ours=True),
    _line("tlsrpt", "What became of TLS is told to the socket ", "of nobody", REMOTE, DELIVERY, ours=True),
    ControlFile("notlshosts", Form.DIRECTORY, "Servers without TLS", "", "", "None.", REMOTE, DELIVERY, ours=True),
    ControlFile(
        "domainkeys",
        Form.DIRECTORY,
        "Keys for DKIM by domain",
        "",
        "",
        "None.",
        (*REMOTE, *INCOMING),
        DELIVERY,
        ours=True,
    ),
    _list(
        "nosignaturedomains",
        "Mail may be unsigned from ",
        ".",
        "Mail waits for a key that is of no use.",
        (*REMOTE, "qmail-dkim"),
        DELIVERY,
        ours=True,
    ),
    _list("signaturedomains", "All mail is signed from ", ".", "Nobody must sign.", ("qmail-dkim",), RUN, ours=True),
    _number("preferipv4", "IPv4 addresses come first unless this is 0: ", "", "0", REMOTE, DELIVERY, ours=True),
    _line("outgoingip", "Mail goes out from ", "the address that the kernel chooses", REMOTE, DELIVERY, ours=True),
    _list(
        "domainbindings",
        "Mail of a sender goes out from: ",
        "",
        "No addresses by sender.",
        REMOTE,
        DELIVERY,
        ours=True,
        form=Form.MAP,
    ),
    _list(
        "helohostbyip",
        "HELO by our address: ",
        "",
        "helohost is for all addresses.",
        REMOTE,
        DELIVERY,
        ours=True,
        form=Form.MAP,
    ),
    ControlFile(
        "xferca.pem", Form.PEM, "Authorities of the nodes' certificates", "", "", "None.", XFER, CONNECTION, ours=True
    ),
    _list(
        "xferpeers",
        "Queued mail moves between: ",
        "",
        "Queued mail moves to no other node.",
        XFER,
        CONNECTION,
        ours=True,
    ),
    _list(
        "proxyhosts",
        "Believed PROXY headers: from ",
        ".",
        "No PROXY header is believed.",
        ("tcpserver",),
        CONNECTION,
        ours=True,
    ),
    _line("rcptcheck", "Recipients are checked by ", "qmail-rcptd", INCOMING, CONNECTION, ours=True),
    _list(
        "relaylimits",
        "May send no more than: ",
        "",
        "Users and relay clients may send as much as they like.",
        INCOMING,
        CONNECTION,
        ours=True,
        form=Form.MAP,
    ),
    _list("recipients", "Recipients: ", "", "No effect.", INCOMING, CONNECTION, ours=True),
    _list("rejectspam", "Spam: ", "", "Spam is delivered.", ("spawn-filter",), DELIVERY, ours=True),
    _number(
        "remotebatch", "Recipients in one transaction: ", "", "1", ("qmail-send", "qmail-rspawn"), HANGUP, ours=True
    ),
    _number(
        "remotechunking",
        "Messages go by BDAT where that is known, unless this is 0: ",
        "",
        "0",
        REMOTE,
        DELIVERY,
        ours=True,
    ),
    _number("remoteehlo", "EHLO comes before HELO unless this is 0: ", "", "1", REMOTE, DELIVERY, ours=True),
    _list(
        "remotelimits",
        "Exchangers get no more than: ",
        "",
        "No exchanger has a limit, or is left alone for asking for less.",
        REMOTE,
        DELIVERY,
        ours=True,
        form=Form.MAP,
    ),
    _number("remotereuse", "Idle connections are kept for ", " seconds", "0", REMOTE, DELIVERY, ours=True),
    _list("rspamd", "rspamd: ", "", "rspamd is at 127.0.0.1:11333.", ("qmail-rspamd",), RUN, ours=True),
    ControlFile(
        "servercert.pem",
        Form.PEM,
        "Certificate and key of servers",
        "",
        "",
        "No TLS.",
        TLS_SERVERS,
        CONNECTION,
        ours=True,
    ),
    ControlFile(
        "servercerts", Form.DIRECTORY, "Certificates by name", "", "", "None.", TLS_SERVERS, CONNECTION, ours=True
    ),
    _list("smtpplugins", "Plug-in, or its section: ", "", "No plug-ins are run.", SMTPD, CONNECTION, ours=True),
    _list("spamfilter", "Spam filter: ", "", "No program looks for spam.", ("spawn-filter",), DELIVERY, ours=True),
    _number("spfbehavior", "What is done about SPF, from 0 to 6: ", "", "0", INCOMING, CONNECTION, ours=True),
    _line("spfexp", "A refusal by SPF says ", "what the domain says", INCOMING, CONNECTION, ours=True),
    _line("spfrules", "Besides the domain's own hosts SPF lets in ", "nobody", INCOMING, CONNECTION, ours=True),
    _number(
        "srs_alwaysrewrite", "Our own senders are rewritten too unless this is 0: ", "", "0", LSPAWN, SOON, ours=True
    ),
    _line("srs_domain", "Forwarded mail has senders at ", "none", (*FORWARDING, *INCOMING), SOON, ours=True),
    _number("srs_hashlength", "Letters of the hash in them: ", "", "4", LSPAWN, SOON, ours=True),
    _number("srs_hashmin", "Letters of it that are enough: ", "", "4", ("qmail-rcptd", "srsfilter"), SOON, ours=True),
    _number("srs_maxage", "They are good for ", " days", "21", ("qmail-rcptd", "srsfilter"), SOON, ours=True),
    ControlFile("srs_secrets", Form.SECRET, "Secrets of SRS", "", "", "None.", FORWARDING, SOON, ours=True),
    _line("srs_separator", "Behind SRS0 there is ", "=", LSPAWN, SOON, ours=True),
    _line("tlsclientciphers", "Ciphers of the SMTP client: ", "OpenSSL's own choice", REMOTE, DELIVERY, ours=True),
    _list(
        "shadow",
        "Each message is copied to ",
        ".",
        "Messages have no second copy.",
        ("qmail-shadowd", "qmail-queued"),
        START,
        ours=True,
    ),
    _number("shadowlease", "Copies belong to this node for ", " seconds", "300", ("qmail-shadowd",), START, ours=True),
    _number("shadowmax", "Bytes of all copies: ", "", "8589934592", ("qmail-shadowd",), START, ours=True),
    ControlFile(
        "shadowpassword", Form.SECRET, "The password for copies", "", "", "None.", ("qmail-shadowd",), START, ours=True
    ),
    _line("statestore", "What is counted is shared by ", "nobody", ("qmail-stated",), START, ours=True),
    _number("tarpitcount", "Recipients have to wait after ", "", "0", INCOMING, CONNECTION, ours=True),
    _number("tarpitdelay", "They wait for ", " seconds", "5", INCOMING, CONNECTION, ours=True),
    _list(
        "tlsclients",
        "May relay with a certificate: ",
        ".",
        "No client certificate lets anybody relay.",
        TLS_SERVERS,
        CONNECTION,
        ours=True,
    ),
    _list(
        "tlsdestinations",
        "TLS to ",
        "",
        "TLS to any host that offers it.",
        REMOTE,
        DELIVERY,
        ours=True,
        form=Form.MAP,
    ),
    ControlFile("tlshosts", Form.DIRECTORY, "Authorities by server", "", "", "None.", REMOTE, DELIVERY, ours=True),
    _list("tlsserverciphers", "Cipher: ", ".", "Ciphers are OpenSSL's own choice.", TLS_SERVERS, CONNECTION, ours=True),
    _number(
        "userconcurrency",
        "Local deliveries at once for one user are at most ",
        "",
        "three quarters of concurrencylocal",
        SEND,
        HANGUP,
        ours=True,
    ),
    _list("validrcptto", "Valid recipient: ", ".", "No effect.", INCOMING, CONNECTION, ours=True),
    ControlFile("validrcptto.cdb", Form.CDB, "", "", "", "No effect.", INCOMING, CONNECTION, ours=True),
    ControlFile("morevalidrcptto.cdb", Form.CDB, "", "", "", "No effect.", INCOMING, CONNECTION, ours=True),
)

CONTROL_FILES = ORIGINAL + OURS
BY_NAME = {entry.name: entry for entry in CONTROL_FILES}
