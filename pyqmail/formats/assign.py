"""users/assign and the records of users/cdb made from it (qmail-users(5), qmail-newu(8)).

=local:user:uid:gid:homedir:dash:ext:      exactly this local part
+loc:user:uid:gid:homedir:dash:pre:        every local part that starts with loc
.                                          the end, mandatory
"""

from collections.abc import Iterator

FIELDS = 6  # user, uid, gid, homedir, dash, ext
SPECIAL = b""  # key of the set of last bytes of wildcards


class AssignFormat(Exception):
    """The file is not a whole users/assign: nothing of it may be used."""


def parse_record(line: bytes) -> tuple[bytes, bytes]:
    """The cdb record of one line, newline excluded. Raises AssignFormat."""
    address, colon, rest = line.partition(b":")
    fields = rest.split(b":", FIELDS)
    if not address or not colon or len(fields) <= FIELDS or b"\0" in line:
        raise AssignFormat
    key = b"!" + address[1:].lower()
    if not address.startswith(b"+"):
        key += b"\0"
    return key, b"\0".join(fields[:FIELDS])


def parse_assign(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of users/cdb in file order, the special one last. Raises AssignFormat, at the latest at the end.

    The special bytes keep their spelling while keys are lower-cased, so that a wildcard that ends with an upper-case
    letter is never found: so it is in qmail, and the file is exchanged with it.
    """
    lines = data.split(b"\n")
    last = len(lines) - 1
    special = b""
    for number, line in enumerate(lines):
        if line.startswith(b"."):
            break
        if number == last:  # an unfinished line, or the end of the file without the final dot
            raise AssignFormat
        yield parse_record(line)
        address = line.partition(b":")[0]
        if address.startswith(b"+") and len(address) > 1 and address[-1:] not in special:
            special += address[-1:]
    yield SPECIAL, special
