"""Exit codes, one class per boundary, and how callers read them.

Plain integers rather than IntEnum: programs that start once per message pay for every import.
Sources: qmail-queue(8), qmail-command(8), qmail-local(8), qmail-lspawn(8).
"""


class QueueExit:
    """What qmail-queue says (qmail-queue(8)): 11 to 40 are permanent, any other nonzero is temporary."""

    DONE = 0
    ADDRESS_TOO_LONG = 11
    REFUSED = 31
    NO_MEMORY = 51
    TIMEOUT = 52
    WRITE_ERROR = 53
    READ_ERROR = 54
    CONFIGURATION = 55
    NETWORK = 56
    NO_HOME = 61
    NO_QUEUE = 62
    NO_PID_FILE = 63
    NO_MESSAGE_LINK = 64
    NO_ENVELOPE_FILE = 65
    NO_TODO_LINK = 66
    NEXT_HOP_TEMPORARY = 71
    CONNECT_TIMEOUT = 72
    CONNECT_REFUSED = 73
    CONNECTION_BROKE = 74
    BUG = 81
    CUSTOM = 82
    CUSTOM_ERROR = 88  # the same in another branch of the family
    ENVELOPE_FORMAT = 91
    ACCOUNT_MISSING = 111
    EXEC_FAILED = 120


class LocalExit:
    """What qmail-local says to qmail-lspawn (qmail-local(8))."""

    DONE = 0
    PERMANENT = 100
    TEMPORARY = 111


class CommandExit:
    """What qmail-local understands from a .qmail command (qmail-command(8))."""

    DONE = 0
    DONE_STOP = 99
    PERMANENT = (64, 65, 70, 76, 77, 78, 100, 112)
    TEMPORARY = 111


class SpawnExit:
    """What a delivery child says to its spawner before qmail-local or qmail-remote has run."""

    USAGE = 112
    ROOT = 113
    NO_HOME = 115
    NO_ALIAS = 116
    CDB = 117
    SYSTEM = 118
    NO_MEMORY = 119
    EXEC_TEMPORARY = 120
    EXEC_GETPW = 121
    EXEC_PERMANENT = 126


CRASHED = -1  # in place of an exit code: killed by a signal
NOT_WAITED = -2  # the child's end could not be learned

_QUEUE_TEXTS = {
    11: b"Denvelope address too long for qq (#5.1.3)",
    115: b"Denvelope address too long for qq (#5.1.3)",
    31: b"Dmail server permanently rejected message (#5.3.0)",
    51: b"Zqq out of memory (#4.3.0)",
    52: b"Zqq timeout (#4.3.0)",
    53: b"Zqq write error or disk full (#4.3.0)",
    54: b"Zqq read error (#4.3.0)",
    55: b"Zqq unable to read configuration (#4.3.0)",
    56: b"Zqq trouble making network connection (#4.3.0)",
    61: b"Zqq trouble in home directory (#4.3.0)",
    71: b"Zmail server temporarily rejected message (#4.3.0)",
    72: b"Zconnection to mail server timed out (#4.4.1)",
    73: b"Zconnection to mail server rejected (#4.4.1)",
    74: b"Zcommunication with mail server failed (#4.4.2)",
    81: b"Zqq internal bug (#4.3.0)",
    91: b"Zqq internal bug (#4.3.0)",
    120: b"Zunable to exec qq (#4.3.0)",
    CRASHED: b"Zqq crashed (#4.3.0)",
    NOT_WAITED: b"Zqq waitpid surprise (#4.3.0)",
}


def queue_answer(status: int) -> tuple[bytes, bytes]:
    """The letter (K, D or Z) and the text with its enhanced code for qmail-queue's exit ``status``.

    ``CRASHED`` stands for death by a signal. The texts are qmail's own; SMTP clients and logs know them.
    """
    if status == 0:
        return b"K", b""
    text = _QUEUE_TEXTS.get(status)
    if text is None:
        if 62 <= status <= 66:
            text = b"Zqq trouble creating files in queue (#4.3.0)"
        elif 11 <= status <= 40:
            text = b"Dqq permanent problem (#5.3.0)"
        else:
            text = b"Zqq temporary problem (#4.3.0)"
    return text[:1], text[1:]
