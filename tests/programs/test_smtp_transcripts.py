"""Every golden SMTP conversation, in turns, in one piece, byte by byte; and with the original where it is at hand."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.programs.smtp_hostile import session
from tests.programs.smtp_transcripts import FOLDER, Run, Transcript, check, fork_ours, transcripts

ALL = [pytest.param(each, marks=pytest.mark.contract(*each.rows), id=each.name) for each in transcripts()]
NOTQMAIL = os.environ.get("NOTQMAIL_HOME", "")


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyqmail-smtp-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("transcript", ALL)
def test_in_turns(transcript: Transcript, base: Path) -> None:
    check(transcript, base, fork_ours, "in_turns")


@pytest.mark.parametrize(
    "transcript", [each for each in transcripts() if "queue-exit" not in each.name], ids=lambda each: each.name
)
def test_chunks_do_not_matter(transcript: Transcript, base: Path) -> None:
    check(transcript, base, fork_ours, "all_at_once")
    if len(transcript.client) < 2000:
        check(transcript, base, fork_ours, "byte_by_byte")


def original(connection: int, log: int, environ: Mapping[str, str]) -> int:
    """The original, with the control files of ``environ`` in the place of its own."""
    mount = f"mount --bind {environ['QMAIL_HOME']}/control {NOTQMAIL}/control && exec {NOTQMAIL}/bin/qmail-smtpd"
    words = ["unshare", "-m", "sh", "-c", mount]
    return subprocess.Popen(words, stdin=connection, stdout=connection, stderr=log, env=dict(environ)).pid


if NOTQMAIL:
    HOSTILE = Transcript(FOLDER / "greeting-and-quit.txt")
    HOSTILE.controls["rcpthosts"] = b"here.test\n.sub.test\n"
    SAME = [each for each in transcripts() if not each.deviation]

    @pytest.mark.parametrize("transcript", SAME, ids=lambda each: each.name)
    def test_the_original_says_the_same(transcript: Transcript, base: Path) -> None:
        check(transcript, base, original, "in_turns", logs=False)

    @pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(0, 400, 50)], ids=str)
    def test_hostile_sessions_end_as_with_the_original(seeds: range, base: Path) -> None:
        """The same answers, queue program calls and exit codes, but for the words that deviate on purpose."""
        for seed in seeds:
            said = []
            for name, start in (("ours", fork_ours), ("theirs", original)):
                place = base / f"{seed}-{name}"
                place.mkdir()
                run = Run(HOSTILE, place, start)
                run.say(session(seed))
                code, _ = run.end()
                files = [
                    (place / file).read_bytes() if (place / file).exists() else b"" for file in ("message", "envelope")
                ]
                text = re.sub(rb"250 ok \d+ qp \d+", b"250 ok", run.heard.replace(b"250-SIZE 0\r\n", b""))
                said.append((text, code, files[0].partition(b" -0000\n")[2], files[1]))
            assert said[0] == said[1], (seed, session(seed))
