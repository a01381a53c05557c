"""A stranger's mail with our From leaves an installed host unsigned, whatever way it is sent on; ours leaves signed."""

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import loopback
from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, ensure_user
from tests.mail_sink import MailSink, mail_sink
from tests.nameserver import nameserver, own_network
from tests.remote.test_signatures import PEM
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: delivers as several users")
ZONE = ['example TXT "v=spf1 ip4:127.0.0.1 -all"', '_dmarc.example TXT "v=DMARC1; p=none"']
TEXT = b"From: The Boss <boss@example.test>\nTo: all\nSubject: pay\nMessage-ID: <1@example.test>\n\nat once\n"
ALIAS = ".qmail-pqoracle"
# What strips the trace and sends it to its subscribers, as list managers may.
LIST = '|(echo Mailing-List: contact list; sed "/^Received:/,/-0000$/d") | {bin}/qmail-inject -f "" -- out-list@x.test'


@pytest.fixture
def signing(installed_home: Path) -> Iterator[tuple[MailHost, MailSink]]:
    """A host with a key for example.test, all of whose mail for others goes to a sink."""
    keys = installed_home / "control/domainkeys/example.test"
    keys.mkdir(parents=True)
    for name, pem in PEM.items():
        (keys / name).write_bytes(pem)
        (keys / name).chmod(0o640)
        os.chown(keys / name, 0, pwd.getpwnam("qmailr").pw_gid)
    made = MailHost(installed_home)
    made.log.write_bytes(b"")
    controls = [installed_home / "control" / name for name in ("smtproutes", "dnsservers", "virtualdomains")]
    address = own_network() + ".53"
    with mail_sink() as sink, nameserver(address, {"test": ZONE}):
        for path, text in zip(controls, (f":[127.0.0.1]:{sink.port}", address, ""), strict=True):
            path.write_text(text + "\n")
        try:
            made.start_delivery()
            made.start_smtp()
            yield made, sink
        finally:
            made.stop()
            for path in [*keys.iterdir(), *controls]:
                path.unlink()
            keys.rmdir()
            keys.parent.rmdir()


def forwarding(home: Path) -> Iterator[str]:
    """The addresses that are sent on, each to ``out-WAY``; all that is written here is taken away again."""
    user, alias = ensure_user(USER), pwd.getpwnam("alias")
    lines = {
        "qmail": "&out-qmail@x.test",
        "forward": f"|{home}/bin/forward out-forward@x.test",
        "fastforward": f"|{home}/bin/fastforward forwards.cdb",
        "list": LIST.format(bin=home / "bin"),
    }
    files = [Path(user.pw_dir) / f".qmail-{way}" for way in lines]
    files += [Path(alias.pw_dir) / ALIAS, Path(user.pw_dir) / "forwards.cdb"]
    subprocess.run(
        [home / "bin/setforward", files[-1], files[-1].with_suffix(".tmp")],
        input=f"{USER}-fastforward@example.test: out-fastforward@x.test;\n".encode(),
        check=True,
    )
    for path, line in zip(files[:-1], [*lines.values(), "&out-alias@x.test"], strict=True):
        path.write_text(line + "\n")
        os.chown(path, *(alias if path.name == ALIAS else user)[2:4])
    try:
        yield from (f"{USER}-{way}@example.test" for way in lines)
        yield ALIAS.removeprefix(".qmail-") + "@example.test"
    finally:
        for path in files:
            path.unlink()


def by_smtp(host: MailHost, sender: bytes, recipients: list[str], client: str = "127.0.0.1") -> None:
    commands = [b"HELO c", b"MAIL FROM:<" + sender + b">"]
    commands += [b"RCPT TO:<" + each.encode() + b">" for each in recipients] + [b"DATA"]
    wire = b"\r\n".join([*commands, TEXT.replace(b"\n", b"\r\n") + b".", b"QUIT", b""])
    with socket.create_connection(("127.0.0.1", host.port), 60, (client, 0)) as sock:
        said = loopback.talk(sock, wire)
    assert said.count(b"250 ok") == 3 + len(recipients) - 1, said


def by_qmtp(home: Path, recipient: str, **environ: str) -> None:
    """One message to qmail-qmtpd, which runs as qmaild."""

    def framed(text: bytes) -> bytes:
        return b"%d:%b," % (len(text), text)

    wire = framed(b"\n" + TEXT) + framed(b"eve@evil.test") + framed(framed(recipient.encode()))
    daemon = pwd.getpwnam("qmaild")
    told = {"PATH": os.environ["PATH"], "TCPREMOTEIP": "127.0.0.2", "TCPLOCALHOST": "mx.example.test", **environ}
    run = subprocess.run(
        [home / "bin/qmail-qmtpd"], input=wire, env=told, cwd="/", capture_output=True, check=False, timeout=60,
        user=daemon.pw_uid, group=daemon.pw_gid, extra_groups=[],
    )  # fmt: skip
    assert b":Kok" in run.stdout, run


def test_only_what_we_vouch_for_leaves_signed(signing: tuple[MailHost, MailSink]) -> None:
    host, sink = signing
    wait_for(lambda: (host.home / "run/qmail-verifyd.sock").exists(), "qmail-verifyd")
    ways = forwarding(host.home)
    addresses = [next(ways) for _ in range(5)]
    try:
        by_smtp(host, b"eve@evil.test", addresses)
        by_smtp(host, b"boss@example.test", addresses[:1], "127.0.0.3")
        by_qmtp(host.home, addresses[0])
        by_qmtp(host.home, "out-relayed@x.test", RELAYCLIENT="")
        by_smtp(host, b"boss@example.test", addresses[:1])
        subprocess.run(
            [host.home / "bin/qmail-inject", "--", "out-local@x.test"], input=TEXT, env=host.environ(), check=True
        )
        sink.wait(lambda: len(sink.taken) == 10, "ten messages")
    finally:
        ways.close()
    signatures: dict[bytes, list[int]] = {}
    for taken in sink.taken:
        for recipient in taken.recipients:
            way = recipient.strip(b"<>").partition(b"@")[0].removeprefix(b"out-")
            signatures.setdefault(way, []).append(taken.body.count(b"DKIM-Signature: "))
    assert sorted(signatures.pop(b"qmail")) == [0, 0, 0, 2]  # two strangers by SMTP, one by QMTP; and where SPF passes
    assert signatures == {b"alias": [0], b"forward": [0], b"fastforward": [0], b"list": [0], b"relayed": [2],
                          b"local": [2]}  # fmt: skip
