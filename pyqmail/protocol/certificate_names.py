"""For which names a certificate is (RFC 9525 section 6)."""

from pyqmail.protocol.dns import parse_literal


def matches(certificate: "dict[str, object]", name: bytes) -> bool:
    """Whether ``certificate``, as ssl shows it, is for ``name``: one of its names, or without any its common name.

    A leading ``*`` label of the certificate stands for one whole label; a leading dot of ``name`` for any one label.
    """
    literal = parse_literal(name)
    entries: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())  # type: ignore[assignment]
    if literal is not None:
        texts = (value.encode() for kind, value in entries if kind == "IP Address")
        return any(parse_literal(text) == literal for text in texts)
    names = [value for kind, value in entries if kind == "DNS"]
    if not entries:
        subject: tuple[tuple[tuple[str, str], ...], ...] = certificate.get("subject", ())  # type: ignore[assignment]
        names = [value for part in subject for key, value in part if key == "commonName"]
    return any(_covers(pattern.lower().encode(), name.lower()) for pattern in names)


def _covers(pattern: bytes, name: bytes) -> bool:
    if pattern == name:
        return True
    label, _, rest = name.partition(b".")
    first, _, behind = pattern.partition(b".")
    if name[:1] == b".":  # what a policy of MTA-STS says with a wildcard (RFC 8461 section 4.1)
        return first != b"" and behind == name[1:]
    return first == b"*" and b"." in rest and behind == rest and label != b""
