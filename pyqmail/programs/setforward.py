"""setforward: make a forwarding database from instructions (setforward(1))."""

from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.formats.forwarding import SourceError, parse_source
from pyqmail.intake.resend import complain
from pyqmail.system.files import read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Convert descriptor 0 to the database ``argv[1]`` by way of ``argv[2]``: 0, 100 for its fault, 111 for ours."""
    if len(argv) < 3:
        complain(b"setforward: usage: setforward data.cdb data.tmp")
        return 100
    path, temporary = (name.decode("utf-8", "surrogateescape") for name in argv[1:3])
    try:
        records = parse_source(read_all(0))
        write_cdb(temporary, records)
        replace_cdb(temporary, path)
    except SourceError as error:
        complain(b"setforward: fatal: " + error.text)
        return 100
    except OSError as error:
        where = argv[2] if error.filename is not None else b"files"
        complain(b"setforward: fatal: unable to write " + where + b": " + (error.strerror or "").encode())
        return 111
    return 0
