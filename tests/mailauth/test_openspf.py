"""The openspf suite for RFC 7208, 203 cases, and on each pyspf's opinion beside ours; with PYQMAIL_TESTS_LONG.

Both are in pyspf's source archive, which pip fetches.
"""

import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.mailauth.spf import check_host, query_for
from pyqmail.protocol.dns import Kind
from tests.mailauth.zone import Zone

VERSION = "2.0.14"
SHA256 = "57a7ef01bda090173aafb6af0106251686ed73f03db4e911fcd34c57fc347186"
CASES = 203
KINDS = {"A": Kind.A, "AAAA": Kind.AAAA, "MX": Kind.MX, "PTR": Kind.PTR, "TXT": Kind.TXT}
SILENT = "TIMEOUT"

# By type what a name has: text, [preference, name] of MX, a list of the strings of TXT.
Names = Mapping[str, Mapping[str, Sequence[Any]]]


class Case(NamedTuple):
    """One question, and the results that are right."""

    name: str
    zone: Names
    helo: str
    ip: str
    sender: str
    results: list[str]
    explanation: str | None


def cases(path: Path) -> Iterator[Case]:
    """All of the suite in ``path``."""
    for scenario in yaml.safe_load_all(path.read_text()):
        zone = {name.lower(): dict(types(records)) for name, records in scenario["zonedata"].items()}
        for name, row in scenario["tests"].items():
            wanted = row["result"] if isinstance(row["result"], list) else [row["result"]]
            yield Case(name, zone, row["helo"], row["host"], row["mailfrom"], wanted, row.get("explanation"))


def types(records: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """What a name has by type; a record of type SPF stands for TXT where there is none."""
    found: dict[str, list[Any]] = {}
    for record in records:
        if record == SILENT:
            found.setdefault(SILENT, [])
            continue
        for kind, value in record.items():
            found.setdefault(kind, []).append(value)
    found.setdefault("TXT", found.get("SPF", []))
    found["TXT"] = [value for value in found["TXT"] if value != "NONE"]
    yield from found.items()


def table(zone: Names) -> dict[tuple[bytes, Kind], list[bytes] | Exception]:
    """The same for a Zone; aliases are followed."""
    found: dict[tuple[bytes, Kind], list[bytes] | Exception] = {}
    for name, own in zone.items():
        has = zone.get(own["CNAME"][0].lower(), {}) if "CNAME" in own else own
        for kind, number in KINDS.items():
            values = has.get(kind, [])
            if SILENT in values or (SILENT in has and not values):
                found[name.encode(), number] = TemporaryFailure("nobody answers")
            elif values:
                found[name.encode(), number] = [text(kind, value) for value in values]
    return found


def text(kind: str, value: Any) -> bytes:
    """One record."""
    if kind == "TXT":
        return "".join([value] if isinstance(value, str) else value).encode()
    if kind == "PTR":
        return value.lower().encode()  # as the resolver spells names
    return f"{value[0]} {value[1]}".encode() if kind == "MX" else value.encode()


def ours(case: Case) -> tuple[str, str]:
    """Our result and explanation."""
    query = query_for(case.ip.encode(), case.sender.encode(), case.helo.encode())
    assert query is not None
    found = check_host(query, Zone(table(case.zone)), explanation=b"DEFAULT")
    return found.result.decode(), found.explanation.decode()


def theirs(pyspf: ModuleType, case: Case) -> str:
    """pyspf's result."""

    def look_up(name: str, kind: str, *_: object, aliases: int = 1) -> Iterator[tuple[tuple[str, str], object]]:
        has = case.zone.get(name.lower().rstrip("."), {})
        if any(len(label) > 63 for label in name.split(".")) or SILENT in has.get(kind, []):
            raise pyspf.TempError("DNS timeout")
        if SILENT in has and not has.get(kind):
            raise pyspf.TempError("DNS timeout")
        for alias in has.get("CNAME", []):
            yield (name, "CNAME"), alias
            if aliases:  # of one that leads back to itself as well
                yield from look_up(alias, kind, aliases=0)
        for value in has.get(kind, []):
            packed = socket.inet_pton(socket.AF_INET6, value) if kind == "AAAA" else value
            yield (name, kind), (text(kind, value),) if kind == "TXT" else packed

    pyspf.DNSLookup = look_up  # type: ignore[attr-defined]
    query = pyspf.query(i=case.ip, s=case.sender, h=case.helo, strict=True, timeout=20)
    query.set_default_explanation("DEFAULT")
    return str(query.check()[0])


def unpacked(base: Path) -> Path:
    """pyspf's sources."""
    words = ["pip", "download", "--no-deps", "--no-binary", ":all:", "-d", str(base), f"pyspf=={VERSION}"]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    archive = base / f"pyspf-{VERSION}.tar.gz"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    subprocess.run(["tar", "-xf", archive, "-C", base], check=True)
    return base / f"pyspf-{VERSION}"


def load(path: Path) -> ModuleType:
    """The module in ``path``."""
    spec = importlib.util.spec_from_file_location("spf", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if os.environ.get("PYQMAIL_TESTS_LONG"):

    def test_the_suite_passes_and_pyspf_says_the_same(tmp_path: Path) -> None:
        source = unpacked(tmp_path)
        suite, pyspf = list(cases(source / "test/rfc7208-tests.yml")), load(source / "spf.py")
        assert len(suite) == CASES
        wrong = {}
        for case in suite:
            result, explanation = ours(case)
            if result not in case.results or theirs(pyspf, case) not in case.results:
                wrong[case.name] = (result, theirs(pyspf, case), case.results)
            if case.explanation is not None and explanation != case.explanation:
                wrong[case.name] = (explanation, "", [case.explanation])
        assert not wrong
