"""What crosses the socket of qmail-queued, and its parent's job sockets: fixed records, one datagram each.

client -> service    request: b"pq1" flags(1) and the facts if there are any, with SCM_CREDENTIALS and exactly two
                     descriptors
service -> client    answer:  b"pa1" exit code(1) submission(8)
service -> client    build:   b"pb1" build, unasked, to a client whose own address begins with BUILD_QUESTION
parent -> worker     job:     id(8) serial(8) refuse(8), with the connection
worker -> parent     freed:   id(8); RETIRING: no more jobs, please
"""

import sys

SERIAL = 1  # flag: name the submission by a serial, not by the client's pid
REQUEST_SIZE = 4  # bytes, without the facts
FACTS_MAX = 32768  # bytes of facts (formats/facts); what is longer is not sent
ANSWER_SIZE = 12
JOB_SIZE = 24
RETIRING = 0  # no job has this id
BUILD_QUESTION = b"\0pyqmail-build/"  # an abstract name: with it the parent knows the question and receives nothing


def format_request(*, serial: bool, facts: bytes = b"") -> bytes:
    """The request record."""
    return b"pq1" + bytes((SERIAL if serial else 0,)) + (facts if len(facts) <= FACTS_MAX else b"")


def parse_request(data: bytes) -> tuple[bool, bytes] | None:
    """Whether a serial is wanted, and the facts; None for what is no request."""
    if not REQUEST_SIZE <= len(data) <= REQUEST_SIZE + FACTS_MAX or data[:3] != b"pq1" or data[3] > SERIAL:
        return None
    return data[3] == SERIAL, data[REQUEST_SIZE:]


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


def format_job(job: int, serial: int, refuse: int = 0) -> bytes:
    """The job record: ``serial`` names the submission if the client asks for one, 0 is none; ``refuse`` is an exit code
    to answer without reading what the client wants."""
    return b"".join([value.to_bytes(8, "little") for value in (job, serial, refuse)])


def parse_job(data: bytes) -> tuple[int, int, int]:
    """Job id, serial, and the exit code to refuse with (0: do not)."""
    return (
        int.from_bytes(data[0:8], "little"),
        int.from_bytes(data[8:16], "little"),
        int.from_bytes(data[16:24], "little"),
    )


def format_build(build: str) -> bytes:
    """The record that names the build of the service."""
    return b"pb1" + build.encode()


def parse_build(data: bytes) -> str | None:
    """The build; None for what is no such record."""
    return data[3:].decode("ascii", "backslashreplace") if data[:3] == b"pb1" and len(data) > 3 else None
