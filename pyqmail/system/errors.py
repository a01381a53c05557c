"""Which system errors may pass by themselves, and their words for a report."""

import errno
import os

_TEMPORARY = frozenset(
    (
        errno.EINTR,
        errno.ENOMEM,
        errno.ETXTBSY,
        errno.EIO,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EINPROGRESS,
        errno.EDEADLK,
        errno.EBUSY,
        errno.ENFILE,
        errno.EMFILE,
        errno.EFBIG,
        errno.ENOSPC,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.ENOBUFS,
        errno.ETOOMANYREFS,
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EUSERS,
        errno.EDQUOT,
        errno.ESTALE,
        errno.ENOLCK,
    )
)


def temporary(error: OSError) -> bool:
    """Whether the same call may succeed later without anybody changing a file, as qmail sorts errno."""
    return error.errno in _TEMPORARY


def reason(error: OSError) -> bytes:
    """The system's words for ``error``, in lower case, for the middle of a sentence."""
    return os.strerror(error.errno or 0).lower().encode("utf-8", "replace")
