"""A scratch directory for several users: pytest's own are closed to all but one."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that everybody may enter, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="pyqmail-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
