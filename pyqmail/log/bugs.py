"""What escapes from a daemon, as words for its log: without them a bug would end mail and say nothing to anybody."""

import os

from pyqmail.system.helper_log import HelperLog

FRAMES = 6  # of the innermost calls
TEXT_MAX = 1000


def describe_bug(error: BaseException) -> str:
    """``bug: KeyError: 7; delivery.py:393 in _settle < ...``, one line, the innermost call first. Never raises."""
    try:
        error = error.__cause__ or error
        calls, place = [], error.__traceback__
        while place is not None:
            code = place.tb_frame.f_code
            calls.append(f"{os.path.basename(code.co_filename)}:{place.tb_lineno} in {code.co_name}")
            place = place.tb_next
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return f"bug: {said}; {' < '.join(reversed(calls[-FRAMES:]))}"[:TEXT_MAX]
    except BaseException:  # no memory, or an error whose text is an error
        return f"bug: {type(error).__name__}"


def tell_bug(program: str, error: BaseException) -> None:
    """``PROGRAM: alert: bug: ...`` for the log, or syslog's; nobody listening changes nothing. Never raises."""
    HelperLog(program.encode()).say(b"alert: " + describe_bug(error).encode("utf-8", "replace"))
