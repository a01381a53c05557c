"""tcprules: compiles rules from descriptor 0 into a database for tcpserver -x; the old one stays until it is whole."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.intake.resend import complain
from pyqmail.system.errors import reason
from pyqmail.system.files import read_all
from pyqmail.tcp.tcprules import BadRule, parse_rules


def _failed(doing: bytes, error: OSError) -> int:
    complain(b"tcprules: fatal: unable to " + doing + b": " + reason(error))
    return 111


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for a bad call or a bad rule, 111 for what may pass, with a line on descriptor 2."""
    if len(argv) < 3:
        complain(b"tcprules: usage: tcprules rules.cdb rules.tmp")
        return 100
    path, temporary = argv[1], argv[2]
    try:
        records = list(parse_rules(read_all(0)))
    except BadRule as bad:
        complain(b"tcprules: fatal: unable to parse this line: " + bad.line)
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
