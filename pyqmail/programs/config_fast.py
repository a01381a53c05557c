"""config-fast NAME: first control files for the host NAME, without a look at DNS (config-fast(8)).

me, defaultdomain and plusdomain are written; NAME is added to locals and rcpthosts, once more each time it runs.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.first_controls import append, usable_name, write_names
from pyqmail.control import home_of
from pyqmail.system.files import write_all

USAGE = b"config-fast: usage: config-fast fully.qualified.name\n"


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for a name that no host can have, 111 when a file cannot be written."""
    if len(argv) != 2:
        write_all(2, USAGE)
        return 100
    name, home = argv[1], home_of(environ)
    if not usable_name(name):
        write_all(2, b"config-fast: %a is no host name; nothing was written\n" % name.decode("latin-1"))
        return 100
    os.umask(0o022)
    try:
        os.stat(home + "/control/.")
        write_all(1, b"The fully qualified name of this host is %s.\n" % name)
        write_names(home, name)
        for file in ("locals", "rcpthosts"):
            write_all(1, b"Adding %s to control/%s...\n" % (name, file.encode()))
            append(home, file, name)
    except OSError as error:
        write_all(2, f"config-fast: fatal: {error.filename}: {error.strerror}\n".encode())
        return 111
    write_all(
        1,
        b"From now on SMTP clients may send only to %s.\n"
        b"A host added to locals or virtualdomains needs a line in rcpthosts too.\n" % name,
    )
    return 0
