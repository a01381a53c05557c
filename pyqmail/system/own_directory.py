"""A directory below run/ that belongs to one of our users alone."""

import os


def make_own(path: str, uid: int | None, gid: int) -> int:
    """Make ``path`` that user's alone, None for who we are: a descriptor of it, to be closed. Raises OSError.

    run/ is another user's directory: what lies there under the name is taken only if it is a directory itself.
    """
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if uid is not None:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, 0o700)
    except OSError:
        os.close(fd)
        raise
    return fd
