"""What other qmails have, and what becomes of it here: netqmail with TLS and AUTH, sagredo's, s/qmail (moving_in).

What is taken without more is not in these tables: a control file of control_files, and TAKEN, the variables that our
programs read by that very name and in that meaning.
"""

import re
from enum import Enum


class Fate(Enum):
    """What becomes of a file, a variable or an argument."""

    TAKEN = "taken"
    TAKEN_AS = "taken as"
    IGNORED = "ignored"
    NOT_SUPPORTED = "not supported"


TAKEN = frozenset((
    "BRTLIMIT", "COMPLETEHEADER", "DATABYTES", "DISABLETLS", "DISABLE_MAXRCPT", "DMARCBEHAVIOR", "DNSBLFAILCLOSED",
    "DNSBLLIST", "DNSBLSKIP", "DNSCACHEIP", "DROP_PRE_GREET", "ERROR_FD", "FORCEAUTHFROM", "FORCEAUTHMAILFROM",
    "FORCETLS", "GID", "GREYLIST", "HIDECLIENT", "LOGDECISIONS", "MAXRCPT", "MAXRECIPIENTS", "NOSPP", "PATH", "PROTO",
    "QMAILLOCAL", "QMAILQUEUE", "QMAILREMOTE", "SPPCONFFILE",
    "RBLSMTPD", "RCPTCHECK", "RCPTCHECKRELAYCLIENT", "RELAYCLIENT", "SMTPAUTH", "SMTPD_ERRORLIMIT",
    "SMTPD_GREETDELAY", "SMTPD_SESSIONLIMIT", "SMTPS", "SPFBEHAVIOR", "TARPITCOUNT", "TARPITDELAY", "TCPLOCALHOST",
    "TCPLOCALIP", "TCPLOCALPORT", "TCPREMOTEHOST", "TCPREMOTEINFO", "TCPREMOTEIP", "TCPREMOTEPORT", "TLSCIPHERS",
    "UCSPITLS", "UID",
))  # fmt: skip

_OLD_KEYS = "the library makes temporary keys by itself, and TLS 1.2 is the least"
_NO_CLIENT_CERTIFICATE = "it is shown only to servers whose line in control/tlsdestinations names it"
_SPF = "control/spfbehavior, spfrules and spfexp, and SPFBEHAVIOR in a rule, say what is done about SPF"
_SIGNING = "qmail-remote signs with every key in control/domainkeys/DOMAIN; variables are for qmail-dkim alone"
_VERIFYING = "control/dmarcbehavior, or DMARCBEHAVIOR in a rule, has qmail-verifyd check DKIM and DMARC"
_SRS = "control/srs_domain and srs_secrets say whether forwards are rewritten, and all of them are"
_RECIPIENTS = "qmail-rcptd knows which recipients exist; control/validrcptto may list them, rcptcheck may ask"
_CONTENT = "messages are not looked into; qmail-rspamd, or another QMAILQUEUE program, can"
_SOURCE = "control/outgoingip, domainbindings and helohostbyip say from which address and by which name mail leaves"
_GREYLISTING = "control/greylist, or GREYLIST in a rule, says how long a newcomer has to wait"
_IGNORED, _NOT = Fate.IGNORED, Fate.NOT_SUPPORTED

# Control files by a pattern for the whole name.
FILES: tuple[tuple[re.Pattern[str], Fate, str], ...] = tuple(
    (re.compile(pattern), fate, why)
    for pattern, fate, why in (
        (r"(?:rsa|dh)\d+\.pem|dhparam\d*\.pem", _IGNORED, _OLD_KEYS),
        (r"clientcert\.pem", _NOT, _NO_CLIENT_CERTIFICATE),
        (r"domaincerts", _NOT, "a client certificate goes by destination, in control/tlsdestinations"),
        (r"notlshosts_auto", _IGNORED, "a host whose handshake failed is remembered for a day, in no file"),
        (r"mailfromrules\.cdb", _NOT, "control/mailfromrules is read as text, with a line user:address each"),
        (r"spfguess", _NOT, "a domain without a record has the result none, whatever others may guess"),
        (r"spfipv6", _IGNORED, "clients with IPv6 addresses are checked as all others"),
        (r"dkimverify|dkimpractice", _NOT, _VERIFYING),
        (r"dkim(?!verify$|practice$)\w*", _NOT, _SIGNING),
        (r"srs_(?!alwaysrewrite$|domain$|hash(?:length|min)$|maxage$|secrets$|separator$)\w+|srsdomains", _NOT, _SRS),
        (r"recipients\.cdb|chkuser\w*", _NOT, _RECIPIENTS),
        (r"badmailfrom-unknown", _NOT, "names that DNS does not have are not looked for"),
        (r"bad(?:mimetypes|loadertypes)(?:\.cdb)?|qfilters|simcontrol\w*(?:\.cdb)?|ssattach", _NOT,
         _CONTENT),
        (r"outgoingip\.host|domainips|bindroutes", _NOT, _SOURCE),
        (r"tlsserverprotocols|servercipherlist|tlsservermethod", _NOT, "control/tlsserverciphers has the ciphers"),
        (r"(?:.*~|.*\.(?:bak|orig|tmp|lock|sample|default))", _IGNORED, "no program ever read it"),
    )
)  # fmt: skip

# Variables by a pattern for the whole name.
VARIABLES: tuple[tuple[re.Pattern[str], Fate, str], ...] = tuple(
    (re.compile(pattern), fate, why)
    for pattern, fate, why in (
        (r"LOCALMFCHECK", _NOT, "set FORCEAUTHMAILFROM=1: users send as themselves, or as control/mailfromrules says"),
        (r"CERTFILE|KEYFILE|CAFILE|DHFILE|CERTDIR|VERIFYDEPTH|CCAFILE|CIPHERS|ECDHCURVE|TLSVERSION", _IGNORED,
         "sslserver reads it, if that stays; qmail-smtpd has its certificate in control/servercert.pem"),
        (r"SPF(?!BEHAVIOR$)\w*", _NOT, _SPF),
        (r"QMAILAUTHENTICATED", _NOT, "no program here reads it"),
        (r"DKIMVERIFY|DKIMPRACTICE|NODKIMVERIFY|UNSIGNED_\w+|RELAYCLIENT_NODKIMVERIFY|SIGN_PRACTICE", _NOT, _VERIFYING),
        (r"DKIM(?!VERIFY$|PRACTICE$)\w*|NODKIM(?!VERIFY$)\w*", _NOT, _SIGNING),
        (r"SRS_\w+|SKIP_SRS|QMAILINJECT_FORCE_SRS", _NOT, _SRS),
        (r"CHKUSER_\w+|VALIDRCPTTO\w*|MOREVALIDRCPTTO\w*|RECIPIENTS\d*|RECIPIENTCHECK", _NOT,
         _RECIPIENTS),
        (r"RELAYLIMIT\w*", _NOT, "control/relaylimits limits users and relay clients, whatever a rule says"),
        (r"NOBAD(?:HELO|MAILFROM)|QREGEX|LOGREGEX|(?:DISABLE_)?BAD(?:MAIL|HELO)\w*|HELOCHECK", _NOT,
         "the lists badhelo, badmailfrom and badrcptto always count, and so do expressions in them"),
        (r"MFDNSCHECK|DNSCHECK", _NOT, "a domain is looked up for SPF and DMARC alone"),
        (r"BADMIMETYPE|BADLOADERTYPE|BASE64|WARLORD|QHPSI\w*|UNSET_QHPSI|SIMSCAN\w*|SURBL\w*|VIRUSCHECK", _NOT,
         _CONTENT),
        (r"JGREYLIST\w*|GREYLIST\w+|POSTGREY\w*|GREYIP", _NOT, _GREYLISTING),
        (r"ENABLE_SPP", _IGNORED, "plug-ins are run where control/smtpplugins names some, unless NOSPP is set"),
        (r"SMTPUTF8|SMTP505DISABLE|REJECTNULLSENDERS|DELIVERTO|AUTHPREPEND|ALLOW_BARELF", _NOT,
         "no program here reads it"),
        (r"SUBMISSION|AUTH|REQUIRE_AUTH|ALLOW_INSECURE_AUTH", _NOT,
         'SMTPAUTH="!" asks for AUTH, FORCETLS=0 allows it in clear'),
        (r"BATV\w*", _NOT, "senders are not signed"),
        (r"OUTGOINGIP|OUTGOINGHELO|DOMAINBINDINGS", _NOT, _SOURCE),
    )
)  # fmt: skip

# Programs that stand in front of ours and are somebody else's, before and after the move.
FOREIGN = {
    "sslserver": "it is not ours, and goes on if it stays installed; qmail-smtpd does not know of its TLS",
    "spamdyke": "it is not ours, and goes on if it stays installed",
    "greetdelay": "it is not ours; SMTPD_GREETDELAY does the same in qmail-smtpd",
    "jgreylist": "it is not ours, and goes on if it stays installed",
    "rblsmtpd6": "it is not ours, and goes on if it stays installed",
    "authup": "it is not ours, and goes on if it stays installed",
    "tlswrapper": "it is not ours, and goes on if it stays installed; qmail-smtpd does not know of its TLS",
    "stunnel": "it is not ours, and goes on if it stays installed; qmail-smtpd does not know of its TLS",
}
OURS = (
    "tcpserver",
    "rblsmtpd",
    "qmail-smtpd",
    "qmail-popup",
    "qmail-pop3d",
    "qmail-start",
    "qmail-qmtpd",
    "qmail-qmqpd",
    "qmail-xferd",
)


def found_in(table: tuple[tuple[re.Pattern[str], Fate, str], ...], name: str) -> tuple[Fate, str] | None:
    """The fate of ``name`` and why; None where the table does not know it."""
    return next(((fate, why) for pattern, fate, why in table if pattern.fullmatch(name)), None)
