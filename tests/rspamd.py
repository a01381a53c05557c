"""Debian's rspamd in a directory of its own: GTUBE, DKIM, and what a message asks for itself in a field X-Action.

It listens on a port of 127.0.0.1 and never runs as root. What makes its start slow is left out: the list of top-level
domains and the detection of languages.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.loopback import free_port
from tests.waiting import wait_for

NOBODY = 65534
DEADLINE_S = 30
ENVIRON = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
CONF = """\
options {{
  url_tld = "{base}/domains";
  tempdir = "{base}";
  cache_file = "{base}/cache";
  hs_cache_dir = "{base}";
  control_socket = "{base}/control mode=0600";
  disable_hyperscan = true;
  filters = "dkim";
  dns {{ nameserver = ["{nameserver}"]; }}
}}
lang_detection {{ languages = "{base}/none"; }}
logging {{ type = "console"; level = "warning"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
actions {{ reject = 15; "add header" = 6; greylist = 4; }}
dkim {{ }}
lua = "{base}/rules.lua";
"""
RULES = """\
rspamd_config:register_symbol({
  name = 'TOLD', score = 1.0,
  callback = function(task)
    local action, old = task:get_header('X-Action'), task:get_header('X-Old')
    if old then
      task:set_milter_reply({add_headers = {['X-New'] = old}, remove_headers = {['X-Old'] = 0}})
    end
    if action then task:set_pre_result(action, 'as told') end
    return true
  end
})
"""


class Rspamd:
    """One that runs."""

    def __init__(self, base: Path, nameserver: str, rules: str, more: str) -> None:
        self.port = free_port()
        self._log = base / "log"
        (base / "domains").write_text("test\nexample\n")
        (base / "rules.lua").write_text(RULES + rules)
        (base / "rspamd.conf").write_text(CONF.format(base=base, port=self.port, nameserver=nameserver) + more)
        account: dict[str, object] = {}
        if os.geteuid() == 0:
            os.chown(base, NOBODY, NOBODY)
            account = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        words = ["rspamd", "-f", "-c", str(base / "rspamd.conf")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                words, env=ENVIRON, stdout=log, stderr=log, start_new_session=True, **account
            )

    def wait(self) -> None:
        """Until it answers."""
        wait_for(self._answers, "rspamd")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(OSError):
            return self._ask("GET", "/ping", b"", {}) == b"pong\r\n"
        return False

    def _ask(self, method: str, path: str, body: bytes, fields: Mapping[str, str]) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(fields))
            return connection.getresponse().read()

    def check(self, message: bytes, **fields: str) -> dict[str, object]:
        """What it finds in ``message``: ``action``, ``symbols``, ``score`` and more; ``fields`` are the request's."""
        found = json.loads(self._ask("POST", "/checkv2", message, fields))
        assert isinstance(found, dict)
        return found

    def stop(self) -> None:
        """All of it stands still: the kernel takes connections, and nobody answers."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End all of it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def rspamd(nameserver: str = "127.0.0.1:53", *, rules: str = "", more: str = "") -> Iterator[Rspamd]:
    """One that answers, in a directory that is removed with it; ``nameserver``: whom it asks; ``rules``: more Lua;
    ``more``: more of its configuration.
    """
    if shutil.which("rspamd", path=ENVIRON["PATH"]) is None:
        pytest.skip("rspamd is not installed")
    with tempfile.TemporaryDirectory(prefix="pyqmail-rspamd-", ignore_cleanup_errors=True) as base:
        server = Rspamd(Path(base), nameserver, rules, more)
        try:
            server.wait()
            yield server
        finally:
            server.kill()
