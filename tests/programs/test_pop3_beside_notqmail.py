"""The same conversations with notqmail's qmail-popup and qmail-pop3d, where NOTQMAIL_HOME names an installation.

Left out is what differs on purpose: CAPA, and STAT after DELE.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

BIN = Path(__file__).resolve().parents[2] / "bin"
OTHER = os.environ.get("NOTQMAIL_HOME", "")
UID = os.getuid() or 65534

TALKS = {
    "lists": b"STAT\r\nLIST\r\nUIDL\nLIST 2abc\r\nUIDL 1 x\r\nLIST 0\r\nLIST 9\r\nLIST x\r\nLIST  3\r\nSTAT 1\r\n",
    "texts": b"RETR 1\r\nRETR 2\r\nRETR 3\r\nRETR 4\r\nTOP 1 0\r\nTOP 1 1\r\n"
    b"TOP 2 1\r\nTOP 3 0\r\nRETR 1 1\r\nTOP 4 2\r\n",
    "marks": b"LAST\r\nDELE 2\r\nDELE 2\r\nDELE\r\nLAST\r\nDELE 1\r\nLAST\r\n"
    b"LIST\r\nLIST 1\r\nRSET\r\nLAST\r\nSTAT\r\n",
    "quit": b"DELE 1\r\nDELE 4\r\nNOOP\r\n\r\nuser x\r\nDeLe\0 3\r\nQUIT\r\nSTAT\r\n",
    "half": b"DELE 1\r\nQUIT",
    "verbs": b" STAT\r\nSTAT\t1\r\nLIST\t1\r\nRETR 1\0 1\r\nTOP 1  2 3\r\nTOP 1 -1\r\n"
    b"RETR -1\r\nRETR 00001\r\nRETR 1\r\r\n",
}
GREETINGS = {
    "strangers": b"STAT\r\n\r\nNOOP\r\nUSER\r\nUSER  \r\nPASS\r\nPASS x\r\n"
    b"APOP a\r\nAPOP \r\nuser a b \r\nPASS\r\nQUIT\r\n",
    "pass": b"USER a\r\nPASS  x y \r\nNOOP\r\n",
    "apop": b"APOP a  b c\r\nNOOP\r\n",
    "apop of an empty name": b"APOP  b c\r\nNOOP\r\n",
    "nul": b"USER a\0b\r\nPASS c\0d\r\n",
}


def maildir() -> Path:
    home = Path(tempfile.mkdtemp(prefix="pop3d-"))
    home.chmod(0o755)
    for folder in ("tmp", "new", "cur"):
        (home / "Maildir" / folder).mkdir(parents=True)
    bodies = {"cur/1:2,": b"a: b\n\n.1\n\n2\n", "new/2": b"half", "new/3": b"", "new/4:odd": b"a\r\n\r\n\n\0x\n.\n"}
    for age, (name, body) in enumerate(bodies.items()):
        path = home / "Maildir" / name
        path.write_bytes(body)
        os.utime(path, (time.time() - 1000 + age,) * 2)
    for path in [home, *home.rglob("*")]:
        os.chown(path, UID, -1)
    return home


def talk(home: Path, words: list[str], data: bytes) -> tuple[int, bytes, list[str]]:
    user = UID if os.getuid() == 0 else None
    result = subprocess.run(words, input=data, cwd=home, user=user, capture_output=True, check=False)
    said = re.sub(rb"<\d+\.\d+@", b"<@", result.stdout)
    return result.returncode, said, sorted(str(path.relative_to(home)) for path in home.rglob("*"))


if OTHER:  # what it says is recorded in the other tests; these need an installation

    @pytest.mark.parametrize("name", TALKS)
    def test_pop3d_says_and_does_the_same(name: str) -> None:
        results = []
        for words in ([sys.executable, "-ISXutf8", str(BIN / "qmail-pop3d")], [f"{OTHER}/bin/qmail-pop3d"]):
            home = maildir()
            results.append(talk(home, [*words, "Maildir"], TALKS[name]))
            shutil.rmtree(home)
        assert results[0] == results[1]

    @pytest.mark.parametrize("name", GREETINGS)
    def test_popup_says_and_hands_on_the_same(name: str) -> None:
        results = []
        for words in ([sys.executable, "-ISXutf8", str(BIN / "qmail-popup")], [f"{OTHER}/bin/qmail-popup"]):
            home = maildir()
            checker = ["host", "/bin/sh", "-c", "tr '\\0' '|' <&3; exit 7"]
            results.append(talk(home, [*words, *checker], GREETINGS[name]))
            shutil.rmtree(home)
        assert results[0] == results[1]
