"""Debian's opendmarc judges as we do by the same records, or the row says who is right by which section."""

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.mailauth.dmarc_rows import ADDRESS, ROWS, Row, domain, ours, served
from tests.scripted_peers import REPO

LIBRARY = "libopendmarc.so.2"
VERDICTS = {14: "none", 15: "pass", 16: "reject", 17: "quarantine", 18: "nothing"}  # of dmarc.h: absent, pass ...


def theirs(port: int) -> list[str]:
    """What opendmarc says of each row."""
    told = [[domain(row, name) for name in (row.author, row.spf, row.signed)] for row in ROWS]
    run = subprocess.run(
        [sys.executable, "-m", "tests.mailauth.test_opendmarc", str(port)],
        input=json.dumps(told), capture_output=True, text=True, check=False, timeout=120,
        cwd=REPO,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [VERDICTS[each] for each in json.loads(run.stdout)]


@pytest.fixture(scope="module")
def verdicts() -> Iterator[list[tuple[str, str]]]:
    """Ours and theirs, of each row."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "libopendmarc2 is not installed"
        pytest.skip("libopendmarc2 is not installed")
    with served() as port:
        yield [(ours(row, port), their) for row, their in zip(ROWS, theirs(port), strict=True)]


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_both_agree(verdicts: list[tuple[str, str]], row: Row) -> None:
    assert verdicts[ROWS.index(row)] == (row.ours, row.opendmarc or row.ours)


class _Address(ctypes.Structure):
    """struct sockaddr_in."""

    _fields_ = [
        ("family", ctypes.c_uint16),
        ("port", ctypes.c_uint16),
        ("ip", ctypes.c_uint32),
        ("zero", ctypes.c_char * 8),
    ]


class _Library(ctypes.Structure):
    """OPENDMARC_LIB_T."""

    _fields_ = [
        ("tld_type", ctypes.c_int),
        ("tld_source_file", ctypes.c_char * 4096),
        ("nscount", ctypes.c_int),
        ("nsaddr_list", _Address * 3),
    ]


def opendmarc(port: int, questions: list[list[str]]) -> list[int]:
    """What libopendmarc says of each author, with the domains that SPF and a signature passed for."""
    library = ctypes.CDLL(LIBRARY)
    library.opendmarc_policy_connect_init.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile() as suffixes:
        suffixes.write(b"example\n")
        suffixes.flush()
        settings = _Library(1, suffixes.name.encode(), 1)
        ip = int.from_bytes(socket.inet_aton(ADDRESS), sys.byteorder)
        settings.nsaddr_list[0] = _Address(socket.AF_INET, socket.htons(port), ip)
        library.opendmarc_policy_library_init(ctypes.byref(settings))
    answers = []
    for question in questions:
        author, spf, signed = (each.encode() for each in question)
        context = ctypes.c_void_p(library.opendmarc_policy_connect_init(b"192.0.2.1", 4))
        library.opendmarc_policy_store_from_domain(context, author)
        if spf:
            library.opendmarc_policy_store_spf(context, spf, 1, 1, None)
        if signed:
            library.opendmarc_policy_store_dkim(context, signed, b"s", 1, None)
        library.opendmarc_policy_query_dmarc(context, author)
        answers.append(int(library.opendmarc_get_policy_to_enforce(context)))
    return answers


if __name__ == "__main__":  # in a process of its own: it is a library in C
    print(json.dumps(opendmarc(int(sys.argv[1]), json.load(sys.stdin))))
