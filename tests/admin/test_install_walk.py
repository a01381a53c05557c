"""INSTALL.md and this test are one source: every block marked ``sh`` is run, in order, on an empty machine.

One is marked ``directory`` too: tests/fresh leaves it out, because of what it fetches.
"""

import os
import re
import sysconfig
from collections.abc import Iterator

import pytest

from tests.admin.machine import ROOT, Machine
from tests.admin.other_families import FAMILIES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
MODULES = sysconfig.get_path("purelib")
BLOCK = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.M | re.S)
# The machine has no network: a package must be one that apt knows, or that is installed. daemontools-run starts svscan.
APT_GET = """\
#!/bin/sh
[ "$1" = install ] || exit 100
lists=$(ls /var/lib/apt/lists | grep Packages) # an image may have been stripped of them
for name in "$@"; do
  case $name in
  install | -*) continue ;;
  postgresql) # as on a machine that has been started
    bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1) data=/var/lib/postgresql/walk
    install -d -o postgres /run/postgresql $data
    su postgres -s /bin/sh -c "cd /; $bin/initdb -D $data -E UTF8 --locale=C --no-sync --auth-local=peer \
      --auth-host=scram-sha-256 >/dev/null
      $bin/pg_ctl -ws -D $data -o '-F -k /run/postgresql' -l /tmp/postgresql.log start" || exit 100 ;;
  daemontools-run) mkdir -p /etc/service; setsid svscan /etc/service </dev/null >/tmp/background.log 2>&1 & ;;
  esac
  dpkg-query -W "$name" >/dev/null 2>&1 || apt-cache show "$name" >/dev/null 2>&1 || [ -z "$lists" ] || exit 100
done
"""


def blocks(language: str, *tags: str) -> list[str]:
    """The text of each block in INSTALL.md with this language and one of these tags, "" for none."""
    found = BLOCK.findall((ROOT / "INSTALL.md").read_text())
    return [text for name, mark, text in found if name == language and mark in (tags or ("",))]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine without a trace of qmail: no users, no tree, no services, no sendmail of anybody's."""
    made = Machine()
    try:
        made.run(
            "for name in alias qmaild qmaill qmailp qmailq qmailr qmails qmailv qmailm; do userdel $name || :; done "
            "2>/dev/null\n"
            "for name in qmail nofiles; do groupdel $name || :; done 2>/dev/null\n"
            "rm -rf /etc/service /var/qmail/* /home/ann /usr/sbin/sendmail /usr/lib/sendmail /etc/tcp.smtp*\n"
            "userdel ann 2>/dev/null || :"
        )
        made.path("/usr/local/sbin").mkdir(parents=True, exist_ok=True)
        made.path("/usr/local/sbin/apt-get").write_text(APT_GET)
        made.path("/usr/local/sbin/apt-get").chmod(0o755)
        yield made
    finally:
        made.close()


def test_every_step_of_the_walk_works(machine: Machine) -> None:
    steps = blocks("sh", "", "directory")
    assert len(steps) > 15
    for step in steps:
        # pip has no network here: what is needed of a group is what this interpreter has
        step = re.sub("bin/qmail-setup --with [a-z]+", rf"\g<0> --dependencies {MODULES}", step)
        done = machine.run(f"cd {ROOT}\n{step}", check=False)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"


def test_no_block_is_forgotten() -> None:
    known = {("sh", ""), ("text", ""), *(("sh", tag) for tag in ("directory", "migrate", "migrate-back", *FAMILIES))}
    assert {(name, mark) for name, mark, _ in BLOCK.findall((ROOT / "INSTALL.md").read_text())} <= known


LISTING = "find /var/qmail/bin /var/qmail/boot -printf '%p %m %u %g %s\\n' | sort; cat /var/qmail/b*/*"
THEIRS = """\
mkdir -p /var/qmail/bin /var/qmail/boot /var/qmail/control
for name in qmail-send qmail-start qmail-queue qmail-smtpd; do
  printf 'a program of theirs: %s\\n' $name >/var/qmail/bin/$name
  chmod 755 /var/qmail/bin/$name
done
chown qmailq:qmail /var/qmail/bin/qmail-queue && chmod 4711 /var/qmail/bin/qmail-queue
echo theirs >/var/qmail/boot/home
"""


def test_a_qmail_that_is_there_is_replaced_in_place_and_comes_back(machine: Machine) -> None:
    machine.run(f"{ROOT}/bin/qmail-setup --accounts && useradd -m -d /home/ann -s /bin/sh ann")
    machine.run(f"{ROOT}/bin/qmail-setup")  # a queue; then their programs in the place of ours
    machine.run(f"rm -rf /var/qmail/bin /var/qmail/boot /var/qmail/lib /var/qmail/run\n{THEIRS}")
    machine.run("echo mx.example.test >/var/qmail/control/me")
    machine.run("su ann -c 'mkdir -p /home/ann/Maildir/new /home/ann/Maildir/cur /home/ann/Maildir/tmp'")
    queue_message(machine)
    before = machine.run(LISTING).stdout
    svc = machine.path("/usr/local/sbin/svc")  # whoever supervises: only what it is told matters here
    svc.write_text("#!/bin/sh\n")
    svc.chmod(0o755)
    for step in blocks("sh", "migrate"):
        machine.run(f"cd {ROOT}\n{step}")
    machine.background("exec env - PATH=/var/qmail/bin:/usr/bin:/bin qmail-start ./Maildir/ >/tmp/send.log 2>&1")
    machine.wait_for(lambda: machine.delivered() == {"theirs"}, "the message that was in the queue")
    assert machine.run("find /var/qmail/bin /var/qmail/lib -perm /6000").stdout == ""
    stop(machine)
    for step in blocks("sh", "migrate-back"):
        machine.run(f"cd {ROOT}\n{step}")
    assert machine.run(LISTING).stdout == before
    assert machine.run("cat /var/qmail/boot/home").stdout == "theirs\n"


def queue_message(machine: Machine) -> None:
    """A preprocessed message for ann, as any qmail leaves it in its queue (INTERNALS, state S5)."""
    machine.run(
        "cd /var/qmail/queue/mess && printf 'X-Number: theirs\\n\\nbody\\n' >0/new && number=$(stat -c %i 0/new)\n"
        "split=$((number % 23)) && mv 0/new $split/$number\n"
        "chown qmailq:qmail $split/$number && chmod 644 $split/$number\n"
        "cd .. && printf 'Fjoe@example.net\\0' >info/$split/$number\n"
        "printf 'Tann@mx.example.test\\0' >local/$split/$number\n"
        "chown qmails:qmail info/$split/$number local/$split/$number\n"
        "chmod 600 info/$split/$number local/$split/$number"
    )


def stop(machine: Machine) -> None:
    """TERM to qmail-send, and wait for its end."""
    pid = machine.run("pgrep -ox qmail-send").stdout.strip()
    machine.run(f"kill {pid}")
    machine.wait_for(lambda: not machine.path(f"/proc/{pid}").exists(), "the end of qmail-send")


if "NOTQMAIL_HOME" in os.environ:

    def test_a_real_notqmail_is_replaced_in_place_and_comes_back() -> None:
        home = os.environ["NOTQMAIL_HOME"]  # its programs know no other place than this one
        start = f"exec env - PATH={home}/bin:/usr/bin:/bin qmail-start ./Maildir/ >/tmp/send.log 2>&1"
        machine = Machine()

        def send(number: str) -> None:
            text = f"To: ann@mx.example.test\\nX-Number: {number}\\n\\nx\\n"
            machine.run(f"printf '{text}' | QMAILUSER=joe {home}/bin/qmail-inject")

        def walk(tag: str) -> None:
            for step in blocks("sh", tag):
                script = step.replace("/var/qmail", home).replace("svc -d", "true")
                machine.run(f"cd {ROOT}\n{script}", QMAIL_HOME=home)

        try:
            machine.run("userdel -r ann 2>/dev/null || :; useradd -m -d /home/ann -s /bin/sh ann")
            machine.run("su ann -c 'mkdir -p /home/ann/Maildir/new /home/ann/Maildir/cur /home/ann/Maildir/tmp'")
            machine.run(f"rm -f {home}/control/*; echo mx.example.test >{home}/control/me")
            send("theirs")
            walk("migrate")
            send("ours")
            machine.background(start)
            machine.wait_for(lambda: machine.delivered() == {"theirs", "ours"}, "both messages")
            stop(machine)
            send("left")
            walk("migrate-back")
            machine.background(start)
            machine.wait_for(lambda: "left" in machine.delivered(), "what we had queued")
            stop(machine)
        finally:
            machine.close()
