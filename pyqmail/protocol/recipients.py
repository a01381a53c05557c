"""The wire between qmail-smtpd and qmail-rcptd (qmail-rcptd(8)).

A question is one datagram: ``R``, a number that comes back, the recipient. An answer is the number and one letter.
"""

SOCKET = "/run/qmail-rcptd.sock"  # below the home
NUMBER_BYTES = 8
QUESTION_MAX = 4096
NOBODY = b"N"  # certainly nobody's
ACCEPT = b"Y"  # somebody's, somewhere else, or not known


def format_question(number: int, recipient: bytes) -> bytes:
    """The datagram that asks about ``recipient``."""
    return b"R" + number.to_bytes(NUMBER_BYTES, "little") + recipient


def parse_question(data: bytes) -> tuple[bytes, bytes] | None:
    """The number as it came, and the recipient; None for anything else."""
    if len(data) < 1 + NUMBER_BYTES or data[:1] != b"R":
        return None
    return data[1 : 1 + NUMBER_BYTES], data[1 + NUMBER_BYTES :]


def is_nobody(answer: bytes, number: int) -> bool:
    """Whether ``answer`` says that the recipient of question ``number`` is nobody's."""
    return answer == number.to_bytes(NUMBER_BYTES, "little") + NOBODY
