"""Run files and units: which there are, and memory limits in them that an interpreter does not survive.

Life with qmail says ``softlimit -m 2000000``. That is right for a C program and kills every Python program at its
start, with no more in the log than a traceback or a signal.
"""

import os
import re
from collections.abc import Iterator

MINIMUM = 64 << 20  # bytes of address space; below it Python cannot be relied upon to start
SERVICE_DIRECTORIES = ("/service", "/etc/service", "/var/service")
UNIT_DIRECTORY = "/etc/systemd/system"
OURS = re.compile(r"qmail|tcpserver|rblsmtpd|checkpassword")
# A limiter and its options; -m and -a count bytes of address space, -d of data, -s of the stack.
LIMITER = re.compile(r"\b(?:softlimit|chpst)((?:\s+-\w+(?:\s+\d+)?)*)")
OPTION = re.compile(r"-([amd])\s*(\d+)")
ULIMIT = re.compile(r"\bulimit\s+(?:-[HS]\w*\s+)?-[vd]\s*(\d+)")  # in units of 1024 bytes
UNIT = re.compile(r"^(Limit(?:AS|DATA)|Memory(?:Max|High)|MemoryLimit)\s*=\s*(\d+)([KMGT]?)", re.M)
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def limits_in(text: str) -> Iterator[tuple[str, int]]:
    """(what it says, bytes) for each memory limit in a run file or a unit."""
    text = "\n".join(line for line in text.replace("\\\n", " ").split("\n") if not line.lstrip().startswith("#"))
    for match in LIMITER.finditer(text):
        for option, number in OPTION.findall(match.group(1)):
            yield f"{match.group().split()[0]} -{option} {number}", int(number)
    for match in ULIMIT.finditer(text):
        yield match.group(), int(match.group(1)) * 1024
    for match in UNIT.finditer(text):
        yield match.group(), int(match.group(2)) * UNITS[match.group(3)]


def run_files(home: str) -> Iterator[str]:
    """Scripts and units that may start something of ours, each once."""
    seen = set()
    for path in _candidates(home):
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def _candidates(home: str) -> Iterator[str]:
    yield f"{home}/rc"
    for directory in (f"{home}/service", f"{home}/supervise", *SERVICE_DIRECTORIES):
        for name in _listed(directory):
            yield f"{directory}/{name}/run"
    for name in _listed(UNIT_DIRECTORY):
        if "qmail" in name:
            yield f"{UNIT_DIRECTORY}/{name}"


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def run_texts(home: str) -> Iterator[tuple[str, str]]:
    """(path, text) of each run file, script or unit that starts something of ours and can be read."""
    for path in run_files(home):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(65536)
        except OSError:
            continue
        if OURS.search(text):
            yield path, text


def small_limits(home: str) -> Iterator[str]:
    """A line for each limit that is too small for Python."""
    for path, text in run_texts(home):
        for words, size in limits_in(text):
            if size < MINIMUM:
                yield f"{path}: {words!r}: Python needs at least {MINIMUM} bytes, and programs die at their start"
