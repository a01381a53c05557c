"""What crosses the socket of qmail-queued, and its parent's job sockets: fixed records, one datagram each.

client -> service    request: b"pq1" flags(1) and the facts if there are any, with exactly two descriptors; or, with the
                     flag WHOLE, without descriptors: b"pq1" flags(1) length of the message(4) of the envelope(4)
                     message envelope facts. With SCM_CREDENTIALS, if not on the socket of our own warm programs
service -> client    answer:  b"pa1" exit code(1) submission(8)
service -> client    build:   b"pb1" build, unasked, to a client whose own address begins with BUILD_QUESTION
parent -> worker     job:     id(8) serial(8) refuse(8) uid(8), with the connection
                     lease:   serial(8) end(8): numbers for what the worker accepts for itself; KNOCK: show a turn;
                     ACCEPT: accept again; REST: do not
worker -> parent     freed:   id(8) of each; RETIRING: no more jobs, please; LEASE: another one, please; AWAY: it
                     accepts nothing now; LEFT: meanwhile one that it had accepted is over
"""

import sys

SERIAL = 1  # flag: name the submission by a serial, not by the client's pid
WHOLE = 2  # flag: message and envelope are in the record
REQUEST_SIZE = 4  # bytes, without the facts
LENGTHS_SIZE = 8
FACTS_MAX = 32768  # bytes of facts (formats/facts); what is longer is not sent
REQUEST_MAX = REQUEST_SIZE + FACTS_MAX  # bytes of any request
ANSWER_SIZE = 12
JOB_SIZE = 32
FREED_SIZE = 8
RETIRING = 0  # no job has this id
LEASE_SIZE = 16
LEASE = (1 << 64) - 1  # nor this one
AWAY = (1 << 64) - 2  # nor this
LEFT = (1 << 64) - 3
KNOCK, ACCEPT, REST = (0, 0), (1, 1), (2, 2)  # leases of nothing
BUILD_QUESTION = b"\0pyqmail-build/"  # an abstract name: with it the parent knows the question and receives nothing


def format_request(*, serial: bool, facts: bytes = b"") -> bytes:
    """The request record."""
    return b"pq1" + bytes((SERIAL if serial else 0,)) + (facts if len(facts) <= FACTS_MAX else b"")


def format_whole(message: bytes, envelope: bytes, *, serial: bool, facts: bytes = b"") -> bytes | None:
    """The request record with all that is to be queued; None where that is too long for one."""
    if REQUEST_SIZE + LENGTHS_SIZE + len(message) + len(envelope) + len(facts) > REQUEST_MAX:
        return None
    flags = bytes((WHOLE | SERIAL if serial else WHOLE,))
    lengths = len(message).to_bytes(4, "little") + len(envelope).to_bytes(4, "little")
    return b"".join((b"pq1", flags, lengths, message, envelope, facts))


def parse_request(data: bytes) -> "tuple[bool, bytes, tuple[bytes, bytes] | None] | None":
    """Whether a serial is wanted, the facts, and message and envelope if it has them; None for what is no request."""
    if not REQUEST_SIZE <= len(data) <= REQUEST_MAX or data[:3] != b"pq1" or data[3] > SERIAL | WHOLE:
        return None
    serial = data[3] & SERIAL != 0
    if not data[3] & WHOLE:
        return serial, data[REQUEST_SIZE:], None
    start = REQUEST_SIZE + LENGTHS_SIZE
    middle = start + int.from_bytes(data[REQUEST_SIZE : REQUEST_SIZE + 4], "little")
    end = middle + int.from_bytes(data[REQUEST_SIZE + 4 : start], "little")
    if end > len(data):
        return None
    return serial, data[end:], (data[start:middle], data[middle:end])


def format_answer(exit_code: int, submission: int) -> bytes:
    """The answer record."""
    return b"pa1" + bytes((exit_code,)) + submission.to_bytes(8, "little")


def parse_answer(data: bytes) -> tuple[int, int] | None:
    """Exit code and submission; None for what is no answer."""
    if len(data) != ANSWER_SIZE or data[:3] != b"pa1":
        return None
    return data[3], int.from_bytes(data[4:], "little")


def format_credentials(pid: int, uid: int, gid: int) -> bytes:
    """A struct ucred."""
    return b"".join([value.to_bytes(4, sys.byteorder) for value in (pid, uid, gid)])


def parse_credentials(data: bytes) -> tuple[int, int, int]:
    """Pid, uid and gid of a struct ucred."""
    return (
        int.from_bytes(data[0:4], sys.byteorder),
        int.from_bytes(data[4:8], sys.byteorder),
        int.from_bytes(data[8:12], sys.byteorder),
    )


def format_job(job: int, serial: int, refuse: int, uid: int) -> bytes:
    """The job record: ``serial`` names the submission if the client asks for one, 0 is none; ``refuse`` is an exit code
    to answer without reading what the client wants (0: do not); ``uid`` is who has connected."""
    return b"".join([value.to_bytes(8, "little") for value in (job, serial, refuse, uid)])


def parse_job(data: bytes) -> tuple[int, int, int, int]:
    """Job id, serial, the exit code to refuse with, and the uid."""
    job, serial, refuse, uid = [int.from_bytes(data[at : at + 8], "little") for at in range(0, JOB_SIZE, 8)]
    return job, serial, refuse, uid


def format_lease(first: int, end: int) -> bytes:
    """The record of serials from ``first``, below ``end``."""
    return first.to_bytes(8, "little") + end.to_bytes(8, "little")


def parse_lease(data: bytes) -> tuple[int, int]:
    """The first serial, and what follows the last."""
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:LEASE_SIZE], "little")


def format_freed(jobs: "list[int]") -> bytes:
    """The record of jobs that are over."""
    return b"".join([job.to_bytes(FREED_SIZE, "little") for job in jobs])


def parse_freed(data: bytes) -> "list[int]":
    """The jobs that are over."""
    return [int.from_bytes(data[at : at + FREED_SIZE], "little") for at in range(0, len(data), FREED_SIZE)]


def format_build(build: str) -> bytes:
    """The record that names the build of the service."""
    return b"pb1" + build.encode()


def parse_build(data: bytes) -> str | None:
    """The build; None for what is no such record."""
    return data[3:].decode("ascii", "backslashreplace") if data[:3] == b"pb1" and len(data) > 3 else None
