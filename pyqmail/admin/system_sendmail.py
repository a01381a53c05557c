"""Our sendmail, mailq and newaliases in the place of the system's, and back (qmail-setup --sendmail, qmail-setup(8)).

On Debian each path is diverted, so that a package that brings one later does not overwrite ours: its file goes to
PATH.before-pyqmail. Elsewhere the file is renamed to that. Then PATH is a symbolic link into HOME/bin.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator

PLACES = {
    "/usr/sbin/sendmail": "sendmail",
    "/usr/lib/sendmail": "sendmail",
    "/usr/bin/mailq": "mailq",
    "/usr/bin/newaliases": "newaliases",
}
ASIDE = ".before-pyqmail"


class SendmailTrouble(Exception):
    """What stands in the way; the text is the line to print."""


def is_ours(path: str, home: str) -> bool:
    """Whether ``path`` is already a link into our bin/."""
    return os.path.islink(path) and os.readlink(path).startswith(f"{home}/bin/")


def is_packaged(path: str) -> bool:
    """Whether ``path`` itself is a file of a Debian package, diverted by nobody: then it is the package's to remove."""
    if not shutil.which("dpkg-divert"):
        return False
    true_name = subprocess.run(["dpkg-divert", "--truename", path], capture_output=True, text=True, check=False)
    if true_name.stdout.strip() != path:
        return False
    return subprocess.run(["dpkg-query", "-S", path], capture_output=True, check=False).returncode == 0


def take_over(home: str) -> Iterator[str]:
    """Put ours in place; a line for each path that changed. Raises SendmailTrouble and OSError.

    What is missing in HOME/bin stays the system's. A second run changes nothing.
    """
    if not os.access(f"{home}/bin/sendmail", os.X_OK):
        raise SendmailTrouble(f"{home}/bin/sendmail is not there: install the tree first")
    for path, name in PLACES.items():
        target = f"{home}/bin/{name}"
        if is_ours(path, home) or not os.path.exists(target):
            continue
        set_aside(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
        yield f"{path} is now {target}; the other one is {path}{ASIDE}"


def give_back(home: str) -> Iterator[str]:
    """Undo ``take_over``; a line for each path that changed. Raises SendmailTrouble and OSError."""
    for path in PLACES:
        if not is_ours(path, home) or is_packaged(path):
            continue
        target = os.readlink(path)
        os.unlink(path)
        try:
            take_back(path)
        except (SendmailTrouble, OSError):
            os.symlink(target, path)
            raise
        yield f"{path} is the system's again" if os.path.lexists(path) else f"{path} is gone, as it was before"


def set_aside(path: str) -> None:
    """Divert ``path``, or rename it where there is no dpkg. Raises SendmailTrouble and OSError."""
    if shutil.which("dpkg-divert"):
        divert("--add", path)
    elif os.path.lexists(path):
        if os.path.lexists(path + ASIDE):
            raise SendmailTrouble(f"{path}{ASIDE} is in the way")
        os.rename(path, path + ASIDE)


def take_back(path: str) -> None:
    """Undo ``set_aside``."""
    if shutil.which("dpkg-divert"):
        divert("--remove", path)
    elif os.path.lexists(path + ASIDE):
        os.rename(path + ASIDE, path)


def divert(what: str, path: str) -> None:
    """Run dpkg-divert. Raises SendmailTrouble."""
    words = ["dpkg-divert", "--quiet", "--local", "--rename", "--divert", path + ASIDE, what, path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SendmailTrouble(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"cannot divert {path}")
