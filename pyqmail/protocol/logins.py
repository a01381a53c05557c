"""The wire between qmail-smtpd and qmail-authd (qmail-authd(8)): one question a connection, one record each way.

client -> service    b"pl1", then method, user, secret, challenge and the client's address, separated by NUL
service -> client    the letter of an Answer; behind Y the name that the user is known by
"""

from pyqmail.protocol.sasl import Credentials

SOCKET = "/run/qmail-authd.sock"  # below the home
QUESTION_MAX = 1024
ANSWER_MAX = 640
_MARK = b"pl1"
_FIELDS = 5


def format_question(credentials: Credentials, ip: bytes) -> bytes:
    """The record that asks; ``credentials`` must be ``possible``."""
    fields = (credentials.method, credentials.user, credentials.secret, credentials.challenge, ip[:64])
    return _MARK + b"\0".join(fields)


def parse_question(record: bytes) -> tuple[Credentials, bytes] | None:
    """The credentials and the client's address; None for anything else, and for what nobody could have."""
    fields = record[len(_MARK) :].split(b"\0")
    if record[: len(_MARK)] != _MARK or len(record) > QUESTION_MAX or len(fields) != _FIELDS:
        return None
    credentials = Credentials(fields[0], fields[1], fields[2], fields[3])
    return (credentials, fields[4]) if credentials.possible else None
