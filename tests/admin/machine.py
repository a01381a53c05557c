"""A scratch machine: this one's files under an overlay that is thrown away, with its own network, processes and mounts.

What is written inside (/etc, /var/qmail, /service, users, diversions) exists inside only. When it ends, the kernel ends
every process in it.
"""

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.roots import archives, bare_root

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
INIT = """\
import os, signal, sys
os.chroot(sys.argv[1])
os.chdir("/")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
SETUP = """\
set -e
cd /
mount -t tmpfs tmpfs "$BASE"
mkdir "$BASE/up" "$BASE/work" "$BASE/root"
root=$BASE/root
mount -t overlay -o "lowerdir=$LOWER,upperdir=$BASE/up,workdir=$BASE/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
# what lies there by pid, as faketime's does, would be another machine's
[ ! -d "$root/dev/shm" ] || mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
for place in $MEMORY; do
  mkdir -p "$root$place"
  mount -t tmpfs -o mode=755 tmpfs "$root$place"
done
mkdir -p "$root$CHECKOUT"
mount --bind "$CHECKOUT" "$root$CHECKOUT" # it may lie on a filesystem of its own
mount -o remount,ro,bind "$root$CHECKOUT"
rm -rf "$root/service"
[ -z "$ARCHIVES" ] || find "$ARCHIVES" -maxdepth 1 -name '*.deb' -exec cp -t "$root/var/cache/apt/archives" {} +
[ -n "$NETWORK" ] || ip link set lo up
exec /usr/bin/python3 -I -c "$INIT" "$root"
"""
ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class Machine:
    """The namespaces, held open by a process that does nothing.

    ``suite``: a bare root of that Debian release instead of this machine's files; apt works in it, on this machine's
    network and with a store of packages that stays.
    """

    def __init__(self, suite: str = "") -> None:
        self.base = tempfile.mkdtemp(prefix="pyqmail-")
        apart = ["--mount", "--pid", "--fork", "--kill-child"] + ([] if suite else ["--net"])
        words = ["unshare", *apart, "sh", "-c", SETUP]
        environ = {**ENVIRON, "INIT": INIT, "BASE": self.base, "CHECKOUT": str(ROOT), "NETWORK": suite}
        environ["LOWER"] = str(bare_root(suite)) if suite else "/"
        self._archives = archives(suite) if suite else Path()
        environ["ARCHIVES"] = str(self._archives) if suite else ""
        environ["MEMORY"] = "/run" if suite else "/var/qmail /run /var/log"
        self._holder = subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            self._holder.wait()
            raise AssertionError(f"no scratch machine: {self._holder.stderr.read()}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.init = int(children[0])
        if suite:
            for name in ("resolv.conf", "hosts"):
                self.path(f"/etc/{name}").write_bytes(Path(f"/etc/{name}").read_bytes())

    def path(self, name: str) -> Path:
        """The file ``name`` of the machine, as seen from here."""
        return Path(f"/proc/{self.init}/root{name}")

    def words(self, words: list[str]) -> list[str]:
        """A command that runs ``words`` inside."""
        return ["nsenter", f"--target={self.init}", "--mount", "--net", "--pid", "--root", "env", "-C", "/", *words]

    def keep_packages(self) -> None:
        """Put what apt has fetched into the store, each file at once: others may use it now."""
        for path in self.path("/var/cache/apt/archives").glob("*.deb"):
            if not (self._archives / path.name).exists():
                fresh = self._archives / f"{path.name}.{os.getpid()}"
                fresh.write_bytes(path.read_bytes())
                fresh.rename(self._archives / path.name)

    def run(
        self, script: str, *, check: bool = True, seconds: float = 120, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, as root."""
        done = subprocess.run(
            self.words(["sh", "-euc", script]),
            env={**ENVIRON, **environ},
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done

    def spawn(self, script: str) -> subprocess.Popen[str]:
        """Start a shell script inside, its output in a pipe."""
        return subprocess.Popen(
            self.words(["sh", "-euc", script]), env=ENVIRON, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def background(self, script: str) -> None:
        """Start a shell script inside that stays until the machine ends."""
        self.run(f"setsid sh -c {_quoted(script)} </dev/null >/tmp/background.log 2>&1 &")

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = DEADLINE_S) -> None:
        """Return when ``condition`` holds; fail, with the logs, when it does not in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = self.run("tail -n 15 /var/log/*/current /tmp/background.log 2>&1 || :").stdout
                raise AssertionError(f"timed out waiting for {what}\n{logs}")
            select.select([], [], [], 0.05)  # asked again, not guessed

    def install(self, **controls: str) -> None:
        """The tree in /var/qmail, a user ann with a Maildir, and control files."""
        self.run(f"{ROOT}/bin/qmail-setup")
        self.run("useradd -m -d /home/ann -s /bin/sh ann && su ann -c '/var/qmail/bin/maildirmake /home/ann/Maildir'")
        for name, text in controls.items():
            self.path(f"/var/qmail/control/{name}").write_text(text)

    def delivered(self, user: str = "ann") -> set[str]:
        """The X-Number of each message in the user's Maildir."""
        found = set()
        for path in self.path(f"/home/{user}/Maildir/new").iterdir():
            match = re.search(rb"^X-Number: (\S+)", path.read_bytes(), re.M)
            found.add(match.group(1).decode() if match else path.name)
        return found

    def close(self) -> None:
        """End it and everything in it."""
        self._holder.kill()
        self._holder.wait()
        os.rmdir(self.base)
        for stream in (self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SUBMIT = """\
import smtplib, sys, time
recipient, count, tag = sys.argv[1], int(sys.argv[2]), sys.argv[3]
end = time.monotonic() + 240
for number in range(count):
    while True:
        assert time.monotonic() < end
        try:
            with smtplib.SMTP("127.0.0.1", 25, timeout=30) as client:
                text = f"X-Number: {tag}-{number}\\r\\nSubject: x\\r\\n\\r\\nbody\\r\\n"
                client.sendmail("bob@client.test", [recipient], text)
            break
        except (smtplib.SMTPException, OSError):
            pass
    print(f"{tag}-{number}", flush=True)
"""


def submit(recipient: str, count: int, tag: str) -> str:
    """A script that sends ``count`` messages by SMTP, each until it is accepted, and prints their numbers."""
    return f"exec python3 -c {_quoted(SUBMIT)} {recipient} {count} {tag}"
