"""The modules of the programs that start once per message, in one file of the installed library (pyqmail/launch.py).

The search for its modules was a tenth of all that such a program cost.
"""

import subprocess
from pathlib import Path

from pyqmail.launch import BUNDLE, BUNDLED

# What they import in an ordinary run; what they import besides is found as files. The tests of cold starts hold it so.
MODULES = (
    *sorted(BUNDLED),
    "pyqmail.address",
    "pyqmail.build",
    "pyqmail.control",
    "pyqmail.envelope",
    "pyqmail.exits",
    "pyqmail.formats",
    "pyqmail.formats.aliases",
    "pyqmail.formats.cdb",
    "pyqmail.formats.date822",
    "pyqmail.formats.forwarding",
    "pyqmail.formats.header",
    "pyqmail.formats.plain_text",
    "pyqmail.formats.rfc822",
    "pyqmail.intake",
    "pyqmail.intake.client",
    "pyqmail.intake.compose",
    "pyqmail.intake.feeding",
    "pyqmail.intake.inject",
    "pyqmail.intake.pipes",
    "pyqmail.intake.resend",
    "pyqmail.local",
    "pyqmail.local.alias_database",
    "pyqmail.local.forward_file",
    "pyqmail.options",
    "pyqmail.programs",
    "pyqmail.protocol",
    "pyqmail.protocol.queued",
    "pyqmail.system",
    "pyqmail.system.command",
    "pyqmail.system.errors",
    "pyqmail.system.files",
)
# From what is compiled already: an index, and each module's code, which is so many bytes before the end. The last lines
# read back what a full disk may have cut.
WRITE = """
import marshal, pathlib, sys
from importlib.util import cache_from_source
library, place, index, codes = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), {}, b""
for name in sys.argv[3:]:
    path = library.joinpath(*name.split("."))
    package = path.is_dir()
    source = path / "__init__.py" if package else path.with_suffix(".py")
    codes = pathlib.Path(cache_from_source(source)).read_bytes()[16:] + codes
    index[name] = package, len(codes)
place.write_bytes(marshal.dumps(index) + codes)
written = place.read_bytes()
for _, before_end in marshal.loads(written).values():
    marshal.loads(written[-before_end:])
"""


def write_bundle(library: Path, python: str) -> bool:
    """Write the bundle of ``library``, which is compiled for ``python``; False when it cannot be written."""
    words = [python, "-ISBc", WRITE, str(library), str(library / "pyqmail" / BUNDLE), *MODULES]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
