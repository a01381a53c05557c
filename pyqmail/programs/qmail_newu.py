"""qmail-newu: makes users/cdb from users/assign (qmail-newu(8)). The old users/cdb stays until the new one is whole."""

from collections.abc import Mapping, Sequence

from pyqmail.admin.databases import make, make_users
from pyqmail.control import home_of


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0, or 111 with a line on descriptor 2."""
    return make("qmail-newu", lambda: make_users(home_of(environ)))
