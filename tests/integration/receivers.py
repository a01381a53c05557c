"""Other people's mail servers as receivers on loopback, each with a queue, a configuration and a port of its own.

Postfix is installed; Exim and OpenSMTPD, whose Debian packages conflict with it, lie unpacked below $PYQMAIL_TEST_PEERS
and run in mount namespaces of their own, so that nothing outside their directory is touched.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.loopback import free_port
from tests.waiting import wait_for

DOMAIN = "peer.test"
NO_PEMS: Mapping[str, Path] = {}  # of an address, with the key and certificate that are shown there
PEERS = Path(os.environ.get("PYQMAIL_TEST_PEERS", "/var/cache/pyqmail-tests/peers"))
POSTFIX_SERVICES = """\
127.0.0.1:PORT inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
"""
POSTFIX_TLS = "{address}:PORT inet n - n - - smtpd -o smtpd_tls_security_level=may -o smtpd_tls_chain_files={pem}\n"


def listening(port: int) -> bool:
    """Whether somebody takes connections at ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Receiver:
    """A running server. ``stored(box)`` is what it keeps of the message to that box, its own additions left out.

    One that is given ``pems`` listens at their addresses, at a ``port`` of the caller's choice.
    """

    def __init__(self, port: int = 0) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pyqmail-peer-"))
        self.base.chmod(0o755)
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of its configuration."""
        path = self.base / name
        path.write_text(text.replace("BASE", str(self.base)).replace("PORT", str(self.port)))
        path.chmod(mode)
        return path

    def start_in_namespace(self, script: str) -> None:
        """Run a shell script that ends by executing the server."""
        path = self.write("run", "set -e\nmount --make-rprivate /\n" + script)
        with (self.base / "output").open("wb") as output:
            command = ["unshare", "-m", "sh", str(path)]
            self.process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_for(lambda: listening(self.port) or self.ended(), "a server that listens", 20)
        assert not self.ended(), (self.base / "output").read_text()

    def ended(self) -> bool:
        """Whether the server is gone."""
        return self.process is not None and self.process.poll() is not None

    def stored(self, box: str) -> bytes | None:
        """What is kept of the message to ``box``; None for nothing yet."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the server and remove what it had."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        shutil.rmtree(self.base, ignore_errors=True)


def after_received(data: bytes) -> bytes:
    """What follows the first Received field: all before it, and itself, is the receiver's."""
    start = data.find(b"Received: ")
    found = re.compile(rb"Received: .*\n(?:[ \t].*\n)*").match(data, start)
    assert found, data[:200]
    return data[found.end() :]


class Postfix(Receiver):
    """Delivers to a Maildir for each box. ``more``: lines of main.cf that come last, and win."""

    SERVICES = POSTFIX_SERVICES

    def __init__(self, boxes: list[str], more: str = "", *, pems: Mapping[str, Path] = NO_PEMS, port: int = 0) -> None:
        super().__init__(port)
        for name in ("etc", "spool", "data", "boxes"):
            (self.base / name).mkdir()
        nobody = pwd.getpwnam("nobody")
        shutil.chown(self.base / "data", "postfix")
        shutil.chown(self.base / "boxes", "nobody")
        self.write("etc/boxes", "".join(f"{box}@{DOMAIN} {box}/\n" for box in boxes))
        self.write(
            "etc/main.cf",
            f"""\
compatibility_level = 3.6
queue_directory = BASE/spool
data_directory = BASE/data
myhostname = mx.{DOMAIN}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_maps = texthash:BASE/etc/boxes
virtual_mailbox_base = BASE/boxes
virtual_uid_maps = static:{nobody.pw_uid}
virtual_gid_maps = static:{nobody.pw_gid}
virtual_minimum_uid = 1
virtual_mailbox_limit = 0
message_size_limit = 0
local_header_rewrite_clients =
smtpd_client_connection_rate_limit = 0
maillog_file =
syslog_name = pyqmail-peer
"""
            + more,
        )
        services = self.SERVICES
        if pems:
            services = services.partition("\n")[2] + "tlsmgr unix - - n 1000? 1 tlsmgr\n"
            services += "".join(POSTFIX_TLS.format(address=address, pem=pem) for address, pem in pems.items())
        self.write("etc/master.cf", services)
        self._postfix("start")
        wait_for(lambda: listening(self.port), "postfix", 20)

    def _postfix(self, verb: str) -> None:
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        command = ["postfix", "-c", str(self.base / "etc"), verb]
        subprocess.run(command, env=environ, check=True, capture_output=True, timeout=60)

    def stored(self, box: str) -> bytes | None:
        """The one file of its Maildir."""
        names = list((self.base / "boxes" / box / "new").glob("*"))
        assert len(names) < 2, names
        return after_received(names[0].read_bytes()) if names else None

    def stop(self) -> None:
        """End it."""
        self._postfix("stop")
        super().stop()


class Exim(Receiver):
    """Only queues; its two files of a message are read from its spool. ``sections``: more of its configuration.

    ``nameserver``: the address of the one that it asks.
    """

    QUEUEING = "queue_only = true"
    ACL = "all:\n  accept\n"
    # As many as may come at once. At Exim's own 20 a burst makes the kernel send SYN cookies, and who answers one while
    # the queue is full has a connection that the server never hears of, and waits for a greeting in vain.
    BACKLOG = 100

    def __init__(
        self,
        boxes: list[str],
        sections: str = "",
        *,
        pems: Mapping[str, Path] = NO_PEMS,
        port: int = 0,
        nameserver: str = "",
    ) -> None:
        super().__init__(port)
        tls = "tls_advertise_hosts ="
        if pems:
            tls = "tls_advertise_hosts = *\ntls_certificate = BASE/pem-$received_ip_address"
        for address, pem in pems.items():
            copy = shutil.copy(pem, self.base / f"pem-{address}")
            shutil.chown(copy, 20990, 20990)
        for name in ("spool", "log"):
            (self.base / name).mkdir()
            os.chown(self.base / name, 20990, 20990)
        self.write("passwd", Path("/etc/passwd").read_text() + "Debian-exim:x:20990:20990::/:/bin/false\n")
        self.write("group", Path("/etc/group").read_text() + "Debian-exim:x:20990:\n")
        for name in ("passwd", "group"):  # the first of two entries counts
            lines = (self.base / name).read_text().splitlines()
            kept = [line for line in lines if not line.startswith("Debian-exim:") or ":20990:" in line]
            self.write(name, "\n".join(kept) + "\n")
        self.write(
            "exim.conf",
            f"""\
primary_hostname = mx.{DOMAIN}
spool_directory = BASE/spool
log_file_path = BASE/log/%slog
local_interfaces = {" : ".join(pems) or "127.0.0.1"}
daemon_smtp_ports = PORT
{tls}
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
disable_ipv6 = true
{self.QUEUEING}
message_size_limit = 100M
smtp_accept_max = 100
smtp_connect_backlog = {self.BACKLOG}
acl_smtp_rcpt = all
acl_smtp_data = all
begin acl
{self.ACL}"""
            + sections,
        )
        resolver = ""
        if nameserver:
            self.write("resolv.conf", f"nameserver {nameserver}\n")
            resolver = f'mount --bind {self.base}/resolv.conf "$(realpath /etc/resolv.conf)"\n'
        self.start_in_namespace(
            f"{resolver}mount --bind {self.base}/passwd /etc/passwd\nmount --bind {self.base}/group /etc/group\n"
            f"exec {PEERS}/usr/sbin/exim4 -bdf -C {self.base}/exim.conf\n"
        )

    def stored(self, box: str) -> bytes | None:
        """Its header lines and its body."""
        for head in (self.base / "spool" / "input").glob("*-H"):
            data = head.read_bytes()
            if f"\n{box}@{DOMAIN}\n".encode() in data:
                body = head.with_name(head.name[:-1] + "D").read_bytes()
                return after_received(data) + body.partition(b"\n")[2]
        return None


class Opensmtpd(Receiver):
    """Relays to a port where nobody listens, so that all messages stay in its queue, or as ``rules`` say."""

    HOLD = 'action "hold" relay host smtp+notls://127.0.0.1:1'

    def __init__(
        self, boxes: list[str], rules: str = HOLD, *, pems: Mapping[str, Path] = NO_PEMS, port: int = 0
    ) -> None:
        super().__init__(port)
        pki = ""
        listeners = [] if pems else ["listen on 127.0.0.1 port PORT"]
        for address, pem in pems.items():
            for word, end in (("cert", ".crt"), ("key", ".key")):
                self.write(f"{word}-{address}", pem.with_suffix(end).read_text(), mode=0o600)
                pki += f'pki at{address} {word} "BASE/{word}-{address}"\n'
            listeners.append(f"listen on {address} port PORT tls pki at{address}")
        sockets = "\n".join(f"{each} hostname mx.{DOMAIN}" for each in listeners)
        lines = "".join(
            f"{user}:x:{uid}:{uid}::/var/lib/opensmtpd/empty:/bin/false\n"
            for user, uid in (("opensmtpd", 20991), ("opensmtpq", 20992))
        )
        known = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("opensmtp")]
        groups = [line for line in Path("/etc/group").read_text().splitlines() if not line.startswith("opensmtp")]
        self.write("passwd", "\n".join(known) + "\n" + lines)
        self.write("group", "\n".join(groups) + "\nopensmtpd:x:20991:\nopensmtpq:x:20992:\n")
        self.write("resolv.conf", "lookup file\n")
        self.write(
            "smtpd.conf",
            f"""\
smtp max-message-size "100M"
smtp limit max-mails 10000
{pki}{sockets}
{rules}
match from any for any action "hold"
""",
        )
        self.start_in_namespace(
            f"cd {self.base}\nmount --bind passwd /etc/passwd\nmount --bind group /etc/group\n"
            'mount --bind resolv.conf "$(realpath /etc/resolv.conf)"\n'
            "for each in /var/spool /run /var/lib; do mount -t tmpfs none $each; done\n"
            "mkdir -p -m 755 /var/lib/opensmtpd/empty\nmkdir -m 711 /var/spool/smtpd\n"
            f"exec {PEERS}/usr/sbin/smtpd -d -f {self.base}/smtpd.conf\n"
        )

    def stored(self, box: str) -> bytes | None:
        """The message file of its queue, without the fields that it adds where they are missing."""
        assert self.process is not None
        queue = Path(f"/proc/{self.process.pid}/root/var/spool/smtpd/queue")
        for message in queue.glob("*/*/message"):
            with message.open("rb") as file:
                start = file.read(600)
            if f"for <{box}@{DOMAIN}>".encode() in start:
                rest = after_received(message.read_bytes())
                rest = re.sub(rb"(?m)^Date: .*\(UTC\)\n", b"", rest, count=1)
                return re.sub(rb"(?m)^Message-ID: <[0-9a-f]+@mx\.peer\.test>\n", b"", rest, count=1)
        return None


def unpacked(program: str) -> bool:
    """Whether ``program`` of another package can be run."""
    return (PEERS / "usr/sbin" / program).exists()


def running(kind: type[Receiver], boxes: list[str]) -> Iterator[Receiver]:
    """A receiver while it is wanted."""
    receiver = kind(boxes)  # type: ignore[call-arg]
    try:
        yield receiver
    finally:
        receiver.stop()
