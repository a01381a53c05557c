"""A queue program that writes down what it gets, in the directory that OUT names; NUL is shown as ``|``."""

from pathlib import Path

TEXT = """#!/bin/sh
cat > "$OUT/queued"
exec 3<&1
cat <&3 | tr '\\0' '|' > "$OUT/envelope"
exit ${QUEUE_EXIT:-0}
"""


def write_queue_program(path: Path) -> None:
    """Make the program; it exits with QUEUE_EXIT, if that is set."""
    path.write_text(TEXT)
    path.chmod(0o755)
