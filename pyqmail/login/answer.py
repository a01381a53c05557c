"""What can be said of a name and a password."""

from enum import Enum


class Answer(Enum):
    """The third is no second: whoever hears it keeps the password and tries again."""

    YES = b"Y"
    NO = b"N"
    LATER = b"L"  # it cannot be known now
