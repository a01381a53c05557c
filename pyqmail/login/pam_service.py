"""Which files a service of PAM answers from (pam.conf(5), pam_unix(8))."""

import os
from collections.abc import Iterator

DIRECTORY = "/etc/pam.d"
# What pam_unix reads, and where it learns that it should
DATABASES = ("/etc/passwd", "/etc/shadow", "/etc/nsswitch.conf")
KINDS = ("auth", "account")  # of lines that a check of a password runs
PLAIN = frozenset(("pam_unix.so", "pam_deny.so", "pam_permit.so", "pam_cap.so"))  # modules with no other source
INCLUDES = ("include", "substack")
DEPTH_MAX = 8
FILE_MAX = 65536  # bytes


class OtherSource(Exception):
    """The answer may follow from more than files."""


def deciding_files(service: str, directory: str = DIRECTORY) -> tuple[str, ...] | None:
    """All files that the answer of ``service`` follows from.

    None where it may follow from anything else: a module that is not one of ``PLAIN``, such as one that asks a network,
    counts, looks at the time, or takes a password once only; and where the service says nothing of a kind of line, so
    that the service "other" is asked.
    """
    paths: list[str] = []
    kinds = set()
    try:
        for kind in _kinds(service, directory, paths, 0):
            kinds.add(kind)
    except (OSError, OtherSource, UnicodeDecodeError):
        return None
    return (*paths, *DATABASES) if kinds >= set(KINDS) else None


def _kinds(service: str, directory: str, paths: list[str], depth: int) -> Iterator[str]:
    """The kind of each line for ``KINDS`` in ``service`` and what it includes, whose files go to ``paths``."""
    if depth > DEPTH_MAX or "/" in service:
        raise OtherSource
    path = os.path.join(directory, service)
    with open(path, "rb") as source:
        data = source.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise OtherSource
    paths.append(path)
    for line in data.decode("ascii").replace("\\\n", " ").split("\n"):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0].lower() == "@include":
            yield from _kinds(words[-1], directory, paths, depth + 1)
            continue
        kind = words[0].lower().removeprefix("-")
        if kind not in KINDS:
            continue
        yield kind
        control, module = _control_and_module(words[1:])
        if control.lower() in INCLUDES:
            yield from _kinds(module, directory, paths, depth + 1)
        elif module not in PLAIN:
            raise OtherSource


def _control_and_module(words: list[str]) -> tuple[str, str]:
    """The two words behind the kind; the first may have blanks where it has brackets. Raises OtherSource."""
    end = next((i for i, word in enumerate(words) if word.endswith("]")), -1) if words[:1] and words[0][0] == "[" else 0
    if not 0 <= end < len(words) - 1:
        raise OtherSource
    return words[0] if end == 0 else "[", words[end + 1]
