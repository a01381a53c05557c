"""The one layer through which every file operation of the queue and of the mailboxes goes.

Thin on purpose: each function is one system call, one durable step or one whole file, so that tests can stop, fail or
record each of them. Paths are ``str`` or ``bytes``; every descriptor is close-on-exec. All raise OSError.
"""

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Path = str | bytes
CHUNK = 1 << 16
USERS_FILE_MAX = 16 << 20  # what is read of a user's file that is instructions: .qmail, .forward, what it includes
LIST_MAX = 64 << 20  # of a mailing list
TABLE_MAX = 512 << 20  # of a table that a tool converts: aliases, users/assign

# No unnamed files here (no /proc, an old filesystem, a policy): use the classic names. Never for a full or broken disk.
UNNAMED_UNSUPPORTED = frozenset(
    (errno.ENOENT, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EISDIR)
)
DIRECTORY_SYNC_UNKNOWN = frozenset((errno.EINVAL, errno.EACCES))


def open_read(path: Path) -> int:
    """A descriptor to read ``path``; does not block on a FIFO."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def open_itself(path: Path) -> int:
    """A descriptor to read what bears the name ``path``: a link there is an error, and no terminal becomes ours.

    For root in directories of a lesser user, since an open is an act where it leads to a device.
    """
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)


def open_unnamed(directory: Path, mode: int = 0o644) -> int:
    """A new file without a name on the filesystem of ``directory`` (open(2), O_TMPFILE), for reading and writing."""
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)


def link_unnamed(fd: int, path: Path) -> None:
    """Give the unnamed file ``fd`` its first name (linkat(2) through /proc); FileExistsError if it is taken."""
    # src_dir_fd makes CPython call linkat with AT_SYMLINK_FOLLOW; without it link(2) would link the symlink itself
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def create_exclusive(path: Path, mode: int = 0o644) -> int:
    """A new file at ``path``, for reading and writing; FileExistsError if there is one."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def open_append(path: Path, mode: int = 0o600) -> int:
    """``path`` opened to append, created if need be; does not block on a FIFO."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, mode)


def open_write(path: Path) -> int:
    """An existing file opened to write in place."""
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def read_all(fd: int, most: int = TABLE_MAX) -> bytes:
    """Everything up to the end of ``fd``; an OSError (EFBIG) if that is more than ``most`` bytes."""
    chunks = []
    size = 0
    while chunk := os.read(fd, CHUNK):
        size += len(chunk)
        if size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        chunks.append(chunk)
    return b"".join(chunks)


def refuse_fifo(status: os.stat_result) -> None:
    """An OSError (ESPIPE) for a FIFO: while nobody writes to it, it would be read as an empty file."""
    if stat.S_ISFIFO(status.st_mode):
        raise OSError(errno.ESPIPE, "Is a FIFO")


def read_file(path: Path, most: int = TABLE_MAX) -> bytes:
    """What the file ``path`` holds; an OSError if that is more than ``most`` bytes (EFBIG), or a FIFO (ESPIPE)."""
    fd = open_read(path)
    try:
        refuse_fifo(os.fstat(fd))
        return read_all(fd, most)
    finally:
        os.close(fd)


def read_dated(path: Path) -> tuple[bytes, int]:
    """What the file ``path`` holds, and its mtime in seconds."""
    fd = open_read(path)
    try:
        return read_all(fd), int(os.fstat(fd).st_mtime)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data``, whatever the kernel takes at a time."""
    done = os.write(fd, data)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(data):
        done += os.write(fd, view[done:])


def start_writeback(fd: int) -> None:
    """Ask the kernel to start writing the dirty pages of ``fd`` (posix_fadvise(2)); a hint, never an error."""
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass


def sync(fd: int) -> None:
    """The file's data and metadata are on disk when this returns. A failure is final: never repeat it and believe."""
    os.fsync(fd)


def sync_directory(path: Path) -> None:
    """The names in directory ``path`` are on disk when this returns, where the filesystem knows how."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in DIRECTORY_SYNC_UNKNOWN:
            raise
    finally:
        os.close(fd)


def link(source: Path, target: Path) -> None:
    """A second name for ``source``; FileExistsError if ``target`` is taken."""
    os.link(source, target, follow_symlinks=False)  # as link(2) does: Python 3.14 would follow


def unlink(path: Path) -> None:
    """Remove the name ``path``."""
    os.unlink(path)


def unlink_if_present(path: Path) -> bool:
    """Remove the name ``path``; False when there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def rename(source: Path, target: Path) -> None:
    """Move ``source`` over ``target``, atomically."""
    os.rename(source, target)


def replace_file(temporary: Path, path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put a file with ``data`` in the place of ``path``, durably; on OSError that is as it was.

    ``temporary`` names the new file until it is whole; both lie on one filesystem.
    Nobody's link is followed: whatever bears the name ``temporary`` is removed.
    """
    _write_whole(temporary, data, mode)
    rename(temporary, path)
    sync_directory(os.path.dirname(path) or ("." if isinstance(path, str) else b"."))


def place_file(temporary: Path, path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """The same where there is no ``path`` yet: FileExistsError, and nothing changed, if there is one by now."""
    _write_whole(temporary, data, mode)
    try:
        link(temporary, path)
    finally:
        unlink(temporary)
    sync_directory(os.path.dirname(path) or ("." if isinstance(path, str) else b"."))


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    """A new file ``path`` with ``data``, on disk; what bore that name is removed."""
    unlink_if_present(path)
    fd = create_exclusive(path, 0o600)
    try:
        write_all(fd, data)
        os.fchmod(fd, mode)
        sync(fd)
    finally:
        os.close(fd)


def overwrite_bytes(path: Path, offsets: "Iterable[int]", byte: bytes) -> None:
    """Write one byte in place, at each of ``offsets``: qmail's done marks."""
    fd = open_write(path)
    try:
        for offset in offsets:
            os.pwrite(fd, byte, offset)
    finally:
        os.close(fd)


def truncate(fd: int, size: int) -> None:
    """Cut the file to ``size`` bytes."""
    os.ftruncate(fd, size)


def set_times(path: Path, seconds: float) -> None:
    """Set atime and mtime of ``path`` to ``seconds`` since the epoch."""
    os.utime(path, (seconds, seconds))
