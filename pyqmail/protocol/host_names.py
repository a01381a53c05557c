"""Names of hosts and domains as DNS knows them (RFC 1035, RFC 5891). Light: nothing of dnspython is imported."""

import encodings.punycode  # noqa: F401
import unicodedata

LABEL_MAX = 63  # RFC 1035 section 2.3.4
NAME_MAX = 253  # bytes of a name as text, by its 255 on the wire
_IDNA_CATEGORIES = frozenset(("Ll", "Lo", "Lm", "Mn", "Mc", "Nd"))  # what RFC 5892 section 2.1 lets into a label


def is_name(name: bytes) -> bool:
    """Whether DNS can be asked for ``name``: letters, digits, hyphens, underscores and dots."""
    labels = name.split(b".")
    return len(name) <= NAME_MAX and all(
        0 < len(label) <= LABEL_MAX and label.replace(b"-", b"").replace(b"_", b"").isalnum() for label in labels
    )


def ascii_host(host: bytes) -> bytes:
    """``host`` as DNS and SMTP without SMTPUTF8 know it: each UTF-8 label as its A-label (RFC 5891), the rest as it is.

    Labels that are no internationalised ones (not UTF-8, signs that RFC 5892 does not allow) stay as they are too, and
    no such host will be found. Sharp s, final sigma and the like are kept, as in IDNA2008: another spelling is another
    domain.
    """
    if host.isascii():
        return host
    return b".".join(label if label.isascii() else _ascii_label(label) for label in host.split(b"."))


def _ascii_label(label: bytes) -> bytes:
    try:
        text = unicodedata.normalize("NFKC", label.decode("utf-8").lower())
    except UnicodeDecodeError:
        return label
    if text[:1] == "-" or text[-1:] == "-" or not all(_allowed(char) for char in text):
        return label
    if unicodedata.category(text[0])[0] == "M":  # a combining mark has nothing to stand on
        return label
    if text.isascii():
        return text.encode("ascii")
    encoded = b"xn--" + text.encode("punycode")
    return encoded if len(encoded) <= LABEL_MAX else label


def _allowed(char: str) -> bool:
    return char == "-" or unicodedata.category(char) in _IDNA_CATEGORIES
