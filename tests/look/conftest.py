"""The home and the qmail-send of tests/programs."""

from tests.programs.conftest import send_home, sending

__all__ = ["send_home", "sending"]
