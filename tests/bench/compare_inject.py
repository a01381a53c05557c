"""Random headers, options and variables through our qmail-inject and another one; says where they differ.

    NOTQMAIL_HOME=/var/notqmail tests/bench/compare_inject.py [CASES [SEED]]

The other one is $NOTQMAIL_HOME/bin/qmail-inject. Compared are exit code, both outputs, message and envelope;
dates and process numbers are not. Exit 1 when anything differs. One difference is known and not looked for: a
QMAILHOST that is a literal such as [127.0.0.1] stays one in our From field.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pyqmail.programs import qmail_inject  # noqa: E402 - the checkout's own, wherever this was started

QUEUE = '#!/bin/sh\ncat > "$OUT/queued"\nexec 3<&1\ncat <&3 > "$OUT/envelope"\n'
PIECES = (
    b"a", b"b", b"joe", b'"q r"', b"host+", b"x.y", b"@", b".", b",", b"<", b">", b":", b";", b"(c)", b"[1.2]", b"[]",
    b" ", b" ", b"\t", b"\n ", b"\\", b'"', b"(", b")", b"]", b"[", b"\xe9", b"+", b"\r", b"e@f", b"<g@h.i>", b"G:",
    b"=?utf-8?q?x?=", b"\x7f", b"\x01", b"long-name-of-a-person.for@breaking.lines.example.net",
)  # fmt: skip
FIELDS = (
    b"To", b"Cc", b"Bcc", b"From", b"Sender", b"Reply-To", b"Return-Path", b"Resent-To", b"Resent-From", b"Errors-To",
    b"Apparently-To", b"Resent-Cc", b"resent-bcc", b"Subject", b"Date", b"Message-ID", b"Mail-Followup-To",
    b"Resent-Date", b"Content-Length", b"Received",
)  # fmt: skip
VARIABLES = {
    b"QMAILINJECT": (b"c", b"f", b"s", b"i", b"r", b"m", b"rm", b"cfi", b"zq"),
    b"QMAILNAME": (b"J D", b'a"b', b"(x)", b""),
    b"QMAILHOST": (b"h", b"h+", b"", b"a b", b"x.y.", b"@"),
    b"QMAILUSER": (b"a b", b"", b"a@b", b"x.", b"\xe9", b'a"b'),
    b"MAILUSER": (b"mu",),
    b"USER": (b"u",),
    b"LOGNAME": (b"ln",),
    b"QMAILSUSER": (b"a b", b"", b"a@b", b"x."),
    b"QMAILSHOST": (b"h", b"h+", b"", b"a b"),
    b"QMAILDEFAULTHOST": (b"h", b"h+", b"", b"a b", b"a.b.", b"(c)x", b"x(c)"),
    b"QMAILDEFAULTDOMAIN": (b"h", b"h+", b"", b"a b", b"a.b."),
    b"QMAILMFTFILE": (b"lists", b"/nonexistent"),
}
OPTIONS = ((b"-a",), (b"-h",), (b"-H",), (b"-A",), (b"-n",), (b"-nH",), (b"-z",), (b"-f",), (b"-N", b"-n"))
SENDERS = (b"", b"a", b"a@b", b"a b@c.", b"x@[]", b"<a@b>", b"a@b+", b"#@[]", b"a@b c")
ARGUMENTS = (b"", b"a", b"y y@z", b'"q"@w', b"(c)@x", b"a@b+", b"@a", b"a@", b"x@[1.2]", b"a@(c)b", b'a@"q"')
CLOCK = (
    (re.compile(rb"Date: \d+ \w+ \d+ [\d:]+ -0000"), b"Date: D"),
    (re.compile(rb"<\d{14}\.\d+\.qmail@"), b"<M@"),
    (re.compile(rb"-\d{9,11}\.\d+"), b"-T.P"),
)
Result = tuple[int, dict[str, bytes]]


def random_case(choice: random.Random) -> tuple[list[bytes], dict[bytes, bytes], bytes]:
    """Options, variables and a message."""
    lines = []
    for _ in range(choice.choice((1, 1, 1, 2, 3))):
        name = choice.choice(FIELDS[:3] if choice.random() < 0.6 else FIELDS)
        body = b"".join(choice.choice(PIECES) for _ in range(choice.randrange(12)))
        lines.append(name + choice.choice((b": ", b":", b" : ", b": ")) + body + b"\n")
    text = b"".join(lines) + choice.choice((b"\nbody\n", b"\nbody\n", b"", b"no field\n", b"From x\n\ny", b"\r\n"))
    environ = {name: choice.choice(values) for name, values in VARIABLES.items() if choice.random() < 0.12}
    argv = list(choice.choice(OPTIONS)) if choice.random() < 0.4 else []
    if choice.random() < 0.2:
        argv += [b"-f", choice.choice(SENDERS)]
    if choice.random() < 0.25:
        argv += [b"--", choice.choice(ARGUMENTS)]
    return argv, environ, text


def result(place: Path, code: int) -> Result:
    """What a run left behind, without what the clock decided."""
    found = {}
    for name in ("output", "errors", "queued", "envelope"):
        text = (place / name).read_bytes() if (place / name).exists() else b"-"
        for pattern, word in CLOCK:
            text = pattern.sub(word, text)
        found[name] = text
        (place / name).unlink(missing_ok=True)
    return code, found


def run_other(program: Path, place: Path, argv: list[bytes], environ: dict[bytes, bytes], text: bytes) -> Result:
    """The other qmail-inject."""
    with (place / "output").open("wb") as output, (place / "errors").open("wb") as errors:
        done = subprocess.run(
            [bytes(program), *argv], env=environ, input=text, stdout=output, stderr=errors, cwd=place, check=False
        )
    return result(place, done.returncode)


def run_ours(place: Path, argv: list[bytes], environ: dict[bytes, bytes], text: bytes) -> Result:
    """Our own main, in a forked child."""
    (place / "input").write_bytes(text)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(place)
            os.dup2(os.open("input", os.O_RDONLY), 0)
            for fd, name in ((1, "output"), (2, "errors")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            os._exit(qmail_inject.main([b"qmail-inject", *argv], environ))
        finally:
            os._exit(255)
    return result(place, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def main() -> int:
    """Compare; 1 if anything differs."""
    cases, seed = ([int(word) for word in sys.argv[1:3]] + [1000, 1][len(sys.argv) - 1 :])[:2]
    other = Path(os.environ["NOTQMAIL_HOME"])
    choice = random.Random(seed)
    differences = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "queue").write_text(QUEUE)
        (place / "queue").chmod(0o755)
        (place / "lists").write_text("e@f.example.org\ng@h.i\n")
        for _ in range(cases):
            argv, variables, text = random_case(choice)
            defaults = {b"QMAILDEFAULTHOST": b"mx.example.org", b"QMAILDEFAULTDOMAIN": b"example.org"}
            environ = {**defaults, b"QMAILPLUSDOMAIN": b"plus.org", b"QMAILIDHOST": b"id.h", **variables}
            environ |= {b"PATH": b"/usr/bin:/bin", b"QMAILQUEUE": bytes(place / "queue"), b"OUT": bytes(place)}
            theirs = run_other(other / "bin" / "qmail-inject", place, argv, environ, text)
            ours = run_ours(place, argv, {**environ, b"QMAIL_HOME": bytes(other)}, text)
            if theirs != ours:
                differences += 1
                print(f"{argv} {variables}\n  input {text!r}\n  other {theirs}\n  ours  {ours}")
    print(f"{cases} cases from seed {seed}, {differences} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
