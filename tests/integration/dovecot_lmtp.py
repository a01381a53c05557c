"""Dovecot's LMTP server on loopback, with a Maildir for each of its users."""

import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from tests.loopback import free_port
from tests.waiting import wait_for

DOVECOT = shutil.which("dovecot", path="/usr/sbin:/usr/bin")
PRESENT = DOVECOT is not None and Path("/usr/lib/dovecot/lmtp").exists()
OLD = """\
mail_location = maildir:~/Maildir
passdb {
  driver = passwd-file
  args = BASE/users
}
userdb {
  driver = passwd-file
  args = BASE/users
}
"""
NEW = """\
mail_driver = maildir
mail_path = ~/Maildir
passdb passwd-file {
  passwd_file_path = BASE/users
}
userdb passwd-file {
  passwd_file_path = BASE/users
}
"""
COMMON = """\
base_dir = BASE/run
log_path = BASE/log
protocols = lmtp
service lmtp {
  unix_listener sink {
    mode = 0666
  }
  inet_listener lmtp {
    LISTEN = ADDRESS
    port = PORT
  }
}
"""
OLD_QUOTA = """\
mail_plugins = quota
plugin {
  quota = count:User quota
  quota_vsizes = yes
}
"""
NEW_QUOTA = """\
mail_plugins {
  quota = yes
}
quota_storage_grace = 0
quota "User quota" {
}
"""
OLD_LIMIT, NEW_LIMIT = "userdb_quota_rule=*:bytes={}", "userdb_quota_storage_size={}B"
LATER = " userdb_quota_full_tempfail=yes"
OLD_TLS = "ssl = yes\nssl_cert = <{0}\nssl_key = <{0}\n"
NEW_TLS = "ssl = yes\nssl_server_cert_file = {0}\nssl_server_key_file = {0}\n"


class Dovecot:
    """A running one. ``pem``: a key and a certificate for STARTTLS, one for all: `local` says nothing to LMTP.

    ``quotas``: bytes of a user's mailbox; below 0, what is too much is for later.
    """

    def __init__(
        self,
        base: Path,
        users: Sequence[str],
        pem: Path | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        quotas: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        assert DOVECOT is not None
        self.base = base
        self.port = port or free_port()
        self.socket = base / "run/sink"
        nobody = pwd.getpwnam("nobody")
        for name in users:
            (base / name).mkdir()
            shutil.chown(base / name, nobody.pw_uid, nobody.pw_gid)
        version = subprocess.run([DOVECOT, "--version"], capture_output=True, text=True, check=True).stdout
        old = version.startswith("2.3")

        def limit(name: str) -> str:
            size = quotas.get(name, 0)
            return (OLD_LIMIT if old else NEW_LIMIT).format(abs(size)) + (LATER if size < 0 else "") if size else ""

        account = f"{{PLAIN}}x:{nobody.pw_uid}:{nobody.pw_gid}::{base}"
        (base / "users").write_text("".join(f"{name}:{account}/{name}::{limit(name)}\n" for name in users))
        shutil.chown(base / "users", "dovecot")
        text = "" if old else "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
        text += COMMON + (OLD if old else NEW)
        if quotas:
            text += OLD_QUOTA if old else NEW_QUOTA
        text += "ssl = no\n" if pem is None else (OLD_TLS if old else NEW_TLS).format(pem)
        for word, value in {
            "BASE": str(base),
            "PORT": str(self.port),
            "LISTEN": "address" if old else "listen",
            "ADDRESS": address,
        }.items():
            text = text.replace(word, value)
        (base / "conf").write_text(text)
        self.process = subprocess.Popen([DOVECOT, "-F", "-c", str(base / "conf")], stdin=subprocess.DEVNULL)
        wait_for(lambda: self._listens(address) or self.process.poll() is not None, "dovecot")
        assert self.process.poll() is None, (base / "log").read_text()

    def _listens(self, address: str) -> bool:
        """Whether it takes connections in both ways."""
        with socket.socket(socket.AF_UNIX) as local, socket.socket() as tcp:
            return local.connect_ex(str(self.socket)) == 0 and tcp.connect_ex((address, self.port)) == 0

    def stored(self, name: str) -> list[bytes]:
        """The messages in a user's Maildir, be they recent or not."""
        return [
            path.read_bytes() for part in ("new", "cur") for path in (self.base / name / "Maildir" / part).glob("*")
        ]


@contextmanager
def dovecot(
    users: Sequence[str],
    pem: Path | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
    quotas: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Dovecot]:
    """One while it is wanted."""
    with tempfile.TemporaryDirectory(prefix="pyqmail-lmtp-") as name:
        Path(name).chmod(0o755)
        server = Dovecot(Path(name), users, pem, address, port, quotas)
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait(30)
