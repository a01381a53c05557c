"""A network and a few files of /etc that only this run has: its DNS, its password, a client that is not the host.

The processor, the disk and the programs are the machine's own. Root.
"""

import ctypes
import functools
import os
import shutil
import subprocess

from tests.bench.peers.common import STATE, USER, BenchError

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
STRANGER = "198.51.100.7"  # a client: servers leave what comes from loopback unchecked
PASSWORD = b"a-password-for-the-bench"
HASH = b"$6$pyqmailbench"  # SHA-512 as crypt(5) has it, 5,000 rounds: yescrypt's 30 ms would hide everything else
PAM = "auth required pam_unix.so\naccount required pam_unix.so\n"  # as INSTALL has it


def crypted():
    """The hash of PASSWORD, which every server compares with."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    return library.crypt(PASSWORD, HASH).decode()


def bind(source, target):
    subprocess.run(["mount", "--bind", source, os.path.realpath(target)], check=True)


@functools.cache
def enter():
    """Go there, with all processes that begin from now on."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise BenchError("no namespaces: " + os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", STRANGER + "/32", "dev", "lo"], check=True)
    base = os.path.join(STATE, "private")
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
    with open("/etc/shadow") as f:
        others = [line for line in f if line.split(":")[0] != USER]
    shadow = os.path.join(base, "shadow")
    with open(os.open(shadow, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write("".join(others) + f"{USER}:{crypted()}:20000:0:99999:7:::\n")
    bind(shadow, "/etc/shadow")
    pam = os.path.join(base, "pam.d")
    shutil.copytree("/etc/pam.d", pam)
    for service in ("pop3", "dovecot"):
        with open(os.path.join(pam, service), "w") as f:
            f.write(PAM)
    bind(pam, "/etc/pam.d")
    resolv = os.path.join(base, "resolv.conf")
    with open(resolv, "w") as f:
        f.write("nameserver 127.0.0.1\n")
    bind(resolv, "/etc/resolv.conf")
