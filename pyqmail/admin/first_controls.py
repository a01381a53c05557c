"""The first control files of a host, as config, config-fast and qmail-setup --me write them (qmail-control(5))."""

import os
import re

from pyqmail.system.files import write_all

# What is on in a new tree and in no other: messages share connections, recipients of one message transactions, and who
# asks for less mail gets less.
RECOMMENDED = {"remotereuse": b"2\n", "remotebatch": b"50\n", "remotelimits": b"*::\n"}
# And by config and config-fast: what SPF, DKIM and DMARC say of a message stands in it, and nobody is refused.
SAID_OF_SENDERS = {"spfbehavior": b"1\n", "dmarcbehavior": b"1\n"}
LABEL = re.compile(rb"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\Z")
NAME_MAX = 253  # RFC 1035 section 2.3.4, as text


def usable_name(name: bytes) -> bool:
    """Whether ``name`` can be a host name: labels of letters, digits, ``-`` and ``_``."""
    labels = name.split(b".")
    return len(name) <= NAME_MAX and all(len(label) <= 63 and LABEL.match(label) for label in labels)


def default_domain(name: bytes) -> bytes:
    """``name`` without its first label if it has three or more, else ``name``."""
    labels = name.split(b".")
    return b".".join(labels[1:]) if len(labels) > 2 else name


def plus_domain(name: bytes) -> bytes:
    """The last two labels of ``name``; all of it if it has no more."""
    return b".".join(name.split(b".")[-2:])


def put(home: str, name: str, data: bytes) -> None:
    """Make control file ``name`` hold ``data``, mode 0644; readers see the old file or the new one. Raises OSError."""
    path = f"{home}/control/{name}"
    fresh = path + ".new"
    with open(fresh, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o644)
    os.replace(fresh, path)


def append(home: str, name: str, line: bytes) -> None:
    """Add ``line`` to list file ``name``, mode 0644. Raises OSError."""
    path = f"{home}/control/{name}"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        data = b""
    if data and not data.endswith(b"\n"):
        data += b"\n"
    put(home, name, data + line + b"\n")


def write_names(home: str, name: bytes) -> None:
    """me, the two default domains, and without a me before what is recommended, each announced. Raises OSError."""
    new = not os.path.lexists(f"{home}/control/me")
    for file, value in (("me", name), ("defaultdomain", default_domain(name)), ("plusdomain", plus_domain(name))):
        write_all(1, b"Putting %s into control/%s...\n" % (value, file.encode()))
        put(home, file, value + b"\n")
    for file, data in {**RECOMMENDED, **SAID_OF_SENDERS}.items():
        if new and not os.path.lexists(f"{home}/control/{file}"):
            write_all(1, b"Putting %s into control/%s...\n" % (data.rstrip(), file.encode()))
            put(home, file, data)
