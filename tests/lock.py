"""Writes a lock file anew from the versions in it: `python -m tests.lock [-f FILE] [NAME==VERSION ...]`.

FILE is pyqmail/dependencies.lock, or another one of its form. pip resolves each section for every supported Python on
both architectures and tells the hashes, from metadata alone. Run it with the oldest supported Python: pip obeys
conditions such as `python_version < "3.13"` by its own version, and what the oldest needs does no harm to others. An
argument moves a distribution to that version, or, with `GROUP:NAME==VERSION`, adds one. Look at the diff.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from pyqmail.dependencies import PYTHONS, lock_path, normal

GLIBC = (
    "manylinux1_{0}",
    "manylinux2010_{0}",
    "manylinux2014_{0}",
    *(f"manylinux_2_{minor}_{{0}}" for minor in range(5, 37)),
)
ARCHITECTURES = ("x86_64", "aarch64")
PARTIAL = "fuzz"  # its wheels are not for every Python and architecture
# These have no wheels; pip is shown empty ones, and no lock names them. Who needs them has Debian's.
LEFT_OUT = ("authres-1.2.0", "dkimpy-1.1.8")


def main(words: list[str]) -> None:
    """Read the sections, resolve each, write the file."""
    if sys.version_info[:2] != PYTHONS[0]:
        raise SystemExit("lock: run this with Python {}.{}".format(*PYTHONS[0]))
    path = Path(lock_path())
    if words[:1] == ["-f"]:
        path, words = Path(words[1]), words[2:]
    old = path.read_text()
    sections = read_sections(old)
    for word in words:
        group, _, pin = word.rpartition(":")
        name = pin.partition("==")[0]
        for groups, pins in sections.items():
            if (group and group == groups) or any(each.startswith(f"{name}==") for each in pins):
                pins[:] = sorted({*(each for each in pins if not each.startswith(f"{name}==")), pin})
    fixed: dict[str, str] = {}  # one version of each distribution, whatever section it is in
    head = old.partition("\n# == ")[0]
    path.write_text(head + "".join(section(groups, pins, fixed) for groups, pins in sections.items()))


def read_sections(text: str) -> dict[str, list[str]]:
    """What each section is for: its pins, less those that others brought (`# via`)."""
    sections: dict[str, list[str]] = {}
    for groups, body in re.findall(r"^# == (.*) ==\n((?:(?!# ==).*\n)*)", text, re.M):
        entries = re.findall(r"^(\S+==\S+).*\n((?: .*\n)*)", body, re.M)
        sections[groups] = [pin for pin, rest in entries if "# via" not in rest]
    return sections


def section(groups: str, pins: list[str], fixed: dict[str, str]) -> str:
    """The text of one section; ``fixed`` are the versions of those before it, and its own are added."""
    found: dict[str, dict[str, object]] = {}
    for python in PYTHONS:
        for architecture in ARCHITECTURES:
            constraints = [f"{name}=={version}" for name, version in fixed.items()]
            for item in resolve(pins, constraints, python, architecture, partial=groups == PARTIAL):
                name = normal(item["metadata"]["name"])
                fixed[name] = item["metadata"]["version"]
                entry = found.setdefault(
                    name, {"version": item["metadata"]["version"], "hashes": set(), "pythons": set()}
                )
                entry["pythons"].add(python)  # type: ignore[attr-defined]
                entry["needs"] = item["metadata"].get("requires_dist") or []
                entry["hashes"].add(item["download_info"]["archive_info"]["hashes"]["sha256"])  # type: ignore[attr-defined]
    lines = [f"\n# == {groups} ==\n"]
    direct = {normal(pin.partition("==")[0]) for pin in pins}
    for name, entry in sorted(found.items()):
        condition = ""
        if len(entry["pythons"]) != len(PYTHONS):  # type: ignore[arg-type]
            after = min(set(PYTHONS) - entry["pythons"])  # type: ignore[operator]
            assert all(python < after for python in entry["pythons"]), name  # type: ignore[attr-defined]
            condition = f' ; python_version < "{after[0]}.{after[1]}"'
        hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(entry["hashes"]))  # type: ignore[call-overload]
        lines.append(f"{name}=={entry['version']}{condition} \\\n{hashes}\n")
        if name not in direct:
            by = [other for other, its in found.items() if any(names(need) == name for need in its["needs"])]  # type: ignore[attr-defined]
            lines.append(f"    # via {', '.join(sorted(by))}\n")
    return "".join(lines)


def names(need: str) -> str:
    """The distribution that a requirement names."""
    match = re.match(r"[A-Za-z0-9._-]+", need)
    return normal(match.group()) if match else ""


def resolve(
    pins: list[str], constraints: list[str], python: tuple[int, int], architecture: str, *, partial: bool
) -> list[dict]:  # type: ignore[type-arg]
    """What pip would install. Nothing is: --dry-run. ``partial``: nothing at all where there is no wheel."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "constraints").write_text("\n".join(constraints))
        for what in LEFT_OUT:
            write_empty_wheel(Path(scratch), what)
        words = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--target", scratch]
        words += ["--only-binary", ":all:", "--python-version", "{}.{}".format(*python), "--implementation", "cp"]
        for pattern in GLIBC:
            words += ["--platform", pattern.format(architecture)]
        words += ["--report", f"{scratch}/report", "-c", f"{scratch}/constraints", "--find-links", scratch, *pins]
        environ = os.environ | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": "",
        }  # the index itself, no mirror's builds
        done = subprocess.run(words, capture_output=True, text=True, env=environ)
        if done.returncode != 0 and partial and re.search("No matching distribution|ResolutionImpossible", done.stderr):
            return []
        if done.returncode != 0:
            raise SystemExit(f"lock: Python {python} on {architecture}: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads((Path(scratch) / "report").read_text())["install"]
        return [item for item in found if not item["download_info"]["url"].startswith("file:")]


def write_empty_wheel(directory: Path, what: str) -> None:
    """A wheel with nothing in it of NAME-VERSION."""
    name, version = what.split("-")
    with ZipFile(directory / f"{what}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{what}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{what}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{what}.dist-info/RECORD", "")


if __name__ == "__main__":
    main(sys.argv[1:])
