"""The delivery report: what qmail-local prints for qmail-lspawn (qmail-local(8))."""

from pyqmail.system import files


def say(fd: int, text: bytes) -> None:
    """Write to the report; nobody listening is no reason to deliver twice."""
    try:
        files.write_all(fd, text)
    except OSError:
        return
