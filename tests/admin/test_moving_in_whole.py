"""The chapters of INSTALL for other families of qmail: their run files run on, users log in, it relays, and back."""

import os
from collections.abc import Iterator

import pytest

from tests.admin.machine import Machine
from tests.admin.other_families import CHECKER, FAMILIES, PASSWORD, PROGRAM, RULES, USER, Family
from tests.admin.test_install_walk import ROOT, blocks, stop

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
PROGRAMS = ("qmail-send", "qmail-start", "qmail-queue", "qmail-smtpd")
# What clients see: port, from where, whether they log in, and for whom the mail is; the last reply.
CLIENT = """\
import smtplib, ssl, sys
port, source, user, password, recipient, number = sys.argv[1:]
anyone = ssl._create_unverified_context()
source = (source, 0)
if port == "465":
    server = smtplib.SMTP_SSL("127.0.0.1", 465, "client.test", timeout=30, context=anyone, source_address=source)
else:
    server = smtplib.SMTP("127.0.0.1", int(port), "client.test", timeout=30, source_address=source)
    server.ehlo()
    server.starttls(context=anyone)
with server:
    server.ehlo()
    if user:
        try:
            server.login(user, password)
        except smtplib.SMTPAuthenticationError as error:
            print(error.smtp_code)
            sys.exit()
    print(server.mail(sys.argv[3] or "client@else.test")[0], end=" ")
    code = server.rcpt(recipient)[0]
    print(code, end=" ")
    if code == 250:
        print(server.data(f"X-Number: {number}\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n".encode())[0], end="")
print()
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        made.run(f"userdel -r ann 2>/dev/null || :; rm -rf /etc/tcp.smtp*; {ROOT}/bin/qmail-setup --accounts")
        made.install()
        for name in ("tcpserver", "softlimit", "tcprules"):  # where a qmail of the books has them
            made.run(f"[ -e /usr/local/bin/{name} ] || ln -s /usr/bin/{name} /usr/local/bin/{name}")
        made.path("/usr/local/sbin").mkdir(parents=True, exist_ok=True)
        made.path("/usr/local/sbin/svc").write_text("#!/bin/sh\n")  # who supervises them is not the question here
        made.path("/usr/local/sbin/svc").chmod(0o755)
        made.path("/tmp/client.py").write_text(CLIENT)
        yield made
    finally:
        made.close()


def lay_out(machine: Machine, family: Family) -> None:
    """Their tree in the place of ours, with the queue and the users that are there."""
    machine.run("rm -rf /var/qmail/bin /var/qmail/boot /var/qmail/lib /var/qmail/run /var/qmail/service")
    machine.run(f"mkdir -p /var/qmail/bin /var/qmail/boot\n{family.before}")
    files = {f"/var/qmail/bin/{name}": PROGRAM for name in PROGRAMS}
    files |= {family.checker: CHECKER} | {path: RULES for path in family.rules}
    files |= {f"/var/qmail/{path}/run": text for path, (_, text) in family.services.items()}
    controls = {"me": "mx.example.test\n", "locals": "example.test\n", "rcpthosts": "example.test\n"}
    files |= {f"/var/qmail/control/{name}": text for name, text in (controls | family.controls).items()}
    for name, text in files.items():
        path = machine.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o644 if "/control/" in name or name in family.rules else 0o755)
    for name in family.rules:
        machine.run(f"/usr/bin/tcprules {name}.cdb {name}.tmp <{name}")
    machine.run(
        "chown qmailq:qmail /var/qmail/bin/qmail-queue && chmod 4711 /var/qmail/bin/qmail-queue; cd /tmp\n"
        "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=mx.example.test "
        "-keyout k.pem -out c.pem 2>/dev/null\ncat k.pem c.pem >/var/qmail/control/servercert.pem\n"
        f"chown {family.certificate} /var/qmail/control/servercert.pem && chmod 640 /var/qmail/control/servercert.pem"
    )


def start(machine: Machine, family: Family) -> None:
    """Execute their run files, and wait for their ports."""
    for path, (port, _) in family.services.items():
        machine.background(f"cd /var/qmail/{path} && exec ./run >>/tmp/{port}.log 2>&1")
        listens = f"ss -Hltn 'sport = :{port}' | grep -q ."
        machine.wait_for(lambda command=listens: machine.run(command, check=False).returncode == 0, path)  # type: ignore[misc]


def end(machine: Machine) -> None:
    """End their servers."""
    machine.run("pkill -x tcpserver || :; timeout 30 sh -c 'while pgrep -x tcpserver >/dev/null; do sleep 0.1; done'")


def client(machine: Machine, port: int, source: str, password: str, recipient: str, number: str = "") -> str:
    """The codes of the replies to MAIL, RCPT and the message."""
    user = USER if password else ""
    words = f"{port} {source} '{user}' '{password}' {recipient} '{number}'"
    return machine.run(f"python3 /tmp/client.py {words}").stdout.strip()


@pytest.mark.parametrize("name", FAMILIES)
def test_its_run_files_go_on_with_ours_and_back(machine: Machine, name: str) -> None:
    family = FAMILIES[name]
    lay_out(machine, family)
    before = machine.run("cat /var/qmail/bin/*; ls -l /var/qmail/bin").stdout
    for step in [*blocks("sh", name), *blocks("sh", "migrate")]:
        machine.run(f"cd {ROOT}\n{step}")
    machine.background("exec env - PATH=/var/qmail/bin:/usr/bin:/bin qmail-start ./Maildir/ >/tmp/send.log 2>&1")
    machine.wait_for(lambda: machine.path("/var/qmail/run/qmail-queued.sock").exists(), "qmail-queued")
    start(machine, family)
    assert client(machine, 25, "127.0.0.1", "", "x@elsewhere.test")[:7] == "250 250"  # by its address
    assert client(machine, 25, "127.0.0.9", "", "x@elsewhere.test") == "250 553"
    assert client(machine, 25, "127.0.0.9", "", "ann@example.test", "from outside") == "250 250 250"
    doors = [port for port, _ in family.services.values() if port != 25 or family.auth_on_25]
    for port in doors:
        assert client(machine, port, "127.0.0.9", PASSWORD, "x@elsewhere.test")[:7] == "250 250"
        assert client(machine, port, "127.0.0.9", PASSWORD, "ann@example.test", f"by-{port}") == "250 250 250"
    assert client(machine, doors[-1], "127.0.0.9", "wrong", "x@elsewhere.test") == "535"
    numbers = {"from", *(f"by-{port}" for port in doors)}
    machine.wait_for(lambda: machine.delivered() >= numbers, "the messages")
    end(machine)
    stop(machine)
    for step in blocks("sh", "migrate-back"):
        machine.run(f"cd {ROOT}\n{step}")
    assert machine.run("cat /var/qmail/bin/*; ls -l /var/qmail/bin").stdout == before
    if name == "netqmail":  # whose server needs nothing but Debian's
        start(machine, family)
        greeting = "import socket; print(socket.create_connection(('127.0.0.1', 25), 30).recv(99))"
        assert "220 theirs" in machine.run(f'python3 -c "{greeting}"').stdout
