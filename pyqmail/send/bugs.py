"""What escapes from a daemon, as a line for its log: without it a bug would end mail and say nothing to anybody."""

import os
import traceback

from pyqmail.formats.logline import safe_words
from pyqmail.log.events import Alert

FRAMES = 6  # of the innermost calls


def describe_bug(error: BaseException) -> Alert:
    """``alert: bug: KeyError: 7; delivery.py:393 in _settle < ...``, the innermost call first. Never raises."""
    try:
        error = error.__cause__ or error
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        calls = " < ".join(f"{os.path.basename(one.filename)}:{one.lineno} in {one.name}" for one in reversed(frames))
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Alert(b"bug: " + safe_words(f"{said}; {calls}"))
    except BaseException:  # no memory, or an error whose text is an error
        return Alert(b"bug: " + type(error).__name__.encode("ascii", "replace"))
