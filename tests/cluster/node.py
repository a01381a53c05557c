"""A node of the cluster: a tree of its own in network, process and mount namespaces of its own."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from pyqmail.admin.modules import link_debian_only
from tests.cluster.site import PROXY, Site
from tests.integration.mailhost import ROOT
from tests.namespaces import ip
from tests.shadow.node import Node
from tests.slapd import MANAGER, PASSWORD
from tests.waiting import wait_for

INIT = """\
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
APART = ("unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child", "/usr/bin/python3", "-I", "-c", INIT)
PORT = 10025
MODULES = ("valkey", "async_timeout", "limits", "deprecated", "wrapt", "packaging")  # beside those of Node
GREYLIST_S = 1


class ClusterNode(Node):
    """The one with ``number``, whose address that is the end of."""

    def __init__(self, base: Path, site: Site, number: int) -> None:
        self.site = site
        self.me = f"node{number}.example.test"
        self.link = f"node{number}"
        super().__init__(base / self.link, site.database, self.me, lease_s=30)
        (library,) = self.home.glob("lib/pyqmail-*")
        for name in MODULES:
            os.symlink(f"{sysconfig.get_path('purelib')}/{name}", library / name)
        link_debian_only(library, ["accounts"])
        self._write_controls()
        self.listen, self.port = "0.0.0.0", PORT
        self.address = site.address(number)
        self._join()

    def _write_controls(self) -> None:
        accounts = (ROOT / "control-examples/cluster/accounts.inetorgperson").read_text()
        values = {"uri": self.site.directory_uri, "binddn": MANAGER, "bindpassword": PASSWORD, "owner": self.site.owner}
        for name, value in values.items():
            accounts = re.sub(f"(?m)^{name}:.*", f"{name}: {value}", accounts)
        path = self.home / "control/accounts"
        path.touch(mode=0o600)
        path.write_text(f"{accounts}delivery: lmtp:{self.site.mailboxes}\n")
        for name, text in {
            "proxyhosts": PROXY, "statestore": self.site.state_url, "greylist": str(GREYLIST_S), "spfbehavior": "0",
            "dmarcbehavior": "0", "concurrencylocal": "10",
        }.items():  # fmt: skip
            self.write(name, text + "\n")

    def _join(self) -> None:
        """Make the namespaces, and put it beside the others."""
        self._holder = subprocess.Popen(APART, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self._init = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()[0]
        self.prefix = ("nsenter", f"--target={self._init}", "--mount", "--net", "--pid")
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self._init)
        ip("link", "set", self.link, "master", self.site.bridge, "up")
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{self.address}/24", "dev", "eth0"],
                      ["link", "set", "eth0", "up"]):  # fmt: skip
            subprocess.run([*self.prefix, "ip", *words], check=True)

    def start(self) -> None:
        """Everything, until it can take mail in for the accounts."""
        super().start()
        wait_for((self.home / "users/cdb").exists, f"the accounts; the log: {self.log.read_text()[-800:]}")
        self.start_smtp(None, "-y", "-l", self.me)

    def cut_off(self, cut: bool = True) -> None:
        """Let it reach nobody, or everybody again."""
        ip("link", "set", self.link, "down" if cut else "up")

    def retry(self) -> None:
        """Try everything that waits."""
        subprocess.run([*self.prefix, self.home / "bin/qmail-q", "retry", "all"], check=True, stdout=subprocess.DEVNULL,
                       env=self.environ())  # fmt: skip

    def die(self) -> None:
        """All its processes at once, and its network."""
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        for process in self.started:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.started.clear()
        wait_for(lambda: not self.pids(), f"the end of {self.me}")

    def burn(self) -> None:
        """Its disk has gone too."""
        self.die()
        shutil.rmtree(self.home / "queue")
