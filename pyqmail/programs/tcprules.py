"""tcprules: compiles rules from descriptor 0 into a database for tcpserver -x; the old one stays until it is whole."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.policy.tcprules import BadRule, parse_rules


def _say(text: bytes) -> None:
    try:
        os.write(2, b"tcprules: " + text + b"\n")
    except OSError:
        return


def _failed(doing: bytes, error: OSError) -> int:
    _say(b"fatal: unable to " + doing + b": " + (error.strerror or "error").lower().encode())
    return 111


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for a bad call or a bad rule, 111 for what may pass, with a line on descriptor 2."""
    if len(argv) < 3:
        _say(b"usage: tcprules rules.cdb rules.tmp")
        return 100
    path, temporary = argv[1], argv[2]
    try:
        with os.fdopen(0, "rb", closefd=False) as source:
            records = list(parse_rules(source.read()))
    except BadRule as bad:
        _say(b"fatal: unable to parse this line: " + bad.line)
        return 100
    except OSError as error:
        return _failed(b"read rules", error)
    try:
        write_cdb(os.fsdecode(temporary), records)
    except OSError as error:
        return _failed(b"create " + temporary, error)
    try:
        replace_cdb(os.fsdecode(temporary), os.path.abspath(os.fsdecode(path)))
    except OSError as error:
        return _failed(b"move " + temporary + b" to " + path, error)
    return 0
