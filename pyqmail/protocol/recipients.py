"""The wire between qmail-smtpd and qmail-rcptd (qmail-rcptd(8)).

A question is one datagram: a letter, a number that comes back, the recipient. An answer is the number and one letter.
"""

SOCKET = "/run/qmail-rcptd.sock"  # below the home
NUMBER_BYTES = 8
QUESTION_MAX = 4096
PLAIN = b"R"  # asks whether the recipient exists
SRS = b"S"  # the same, in the domain of control/srs_domain: an SRS address has to be one that was made here
NOBODY = b"N"  # certainly nobody's
ACCEPT = b"Y"  # somebody's, somewhere else, or not known
UNSURE = b"Z"  # an SRS address that cannot be judged now


def format_question(number: int, recipient: bytes, kind: bytes = PLAIN) -> bytes:
    """The datagram that asks about ``recipient``."""
    return kind + number.to_bytes(NUMBER_BYTES, "little") + recipient


def parse_question(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The number as it came, the recipient and the kind; None for anything else."""
    if len(data) < 1 + NUMBER_BYTES or data[:1] not in (PLAIN, SRS):
        return None
    return data[1 : 1 + NUMBER_BYTES], data[1 + NUMBER_BYTES :], data[:1]


def parse_answer(answer: bytes, number: int) -> bytes:
    """The letter that answers question ``number``; empty for anything else."""
    return answer[NUMBER_BYTES:] if answer.startswith(number.to_bytes(NUMBER_BYTES, "little")) else b""


def is_nobody(answer: bytes, number: int) -> bool:
    """Whether ``answer`` says that the recipient of question ``number`` is nobody's."""
    return parse_answer(answer, number) == NOBODY
