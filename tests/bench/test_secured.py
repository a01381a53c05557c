"""The load generator of the secured workloads against a scripted peer, and those workloads with few messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.peers.common import BenchError
from tests.bench.peers.load import Smtp, letter_to, load
from tests.certificates import self_signed, server_context
from tests.integration.mailhost import ensure_user, install, own_user
from tests.mail_sink import mail_sink
from tests.public_directory import public_directory

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 300
FIGURES = {
    "w8": "one_accept_per_s",
    "w10": "many_accept_per_s",
    "w11": "sunk_per_s",
    "w12": "delivered_per_s",
    "w14": "sunk_per_s",
    "w13": "fetch_per_s",
}
LOGIN = (b"ann", b"secret")


@pytest.mark.parametrize(("reuse", "connections"), [(False, 6), (True, 2)], ids=["one a connection", "many"])
def test_each_letter_comes_once_in_tls_behind_a_login(tmp_path: Path, reuse: bool, connections: int) -> None:
    def answer(line: bytes, _transaction: object) -> bytes:
        words = {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n", b"STAR": b"220 go\r\n", b"AUTH": b"235 yes\r\n"}
        return words.get(line[:4], b"250 ok\r\n")

    with mail_sink(answer, context=server_context(self_signed(tmp_path))) as sink:
        done = load(Smtp(sink.port, letter_to("ann@there.test"), login=LOGIN, reuse=reuse), 6, 2)
        assert len({taken.body for taken in sink.taken}) == len(sink.taken) == 6
        assert {tuple(taken.recipients) for taken in sink.taken} == {(b"<ann@there.test>",)}
        assert done.cpu_s > 0 and done.seconds > 0
        logins = [line for line in sink.lines if line.startswith(b"AUTH PLAIN ")]
        assert 1 <= len(logins) <= connections and len(sink.secured) == len(logins)
        assert reuse or len(logins) == connections


def test_a_refusal_is_an_error_of_the_run() -> None:
    with (
        mail_sink(lambda line, _: b"550 no\r\n" if line[:4] == b"RCPT" else b"250 ok\r\n") as sink,
        pytest.raises(BenchError, match="550 no"),
    ):
        load(Smtp(sink.port, letter_to("ann@there.test"), tls=False), 3, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, and a tree with its users")
def test_the_secured_workloads_give_their_figures() -> None:
    user = own_user("pqbench")
    ensure_user(user)
    with public_directory() as base:
        install(base / "qmail")
        environ = dict(os.environ, QMAIL=str(base / "qmail"), BENCH_USER=user, BENCH_STATE=str(base / "state"))
        words = ["run", "-s", "pyqmail", "-w", ",".join(FIGURES), "-r", "1", "-n", "4", "-o", str(base / "out.json")]
        subprocess.run(
            [sys.executable, ROOT / "tests/bench/compare.py", *words], env=environ, check=True, timeout=LONGEST_S
        )
        found = json.loads((base / "out.json").read_text())
    assert "errors" not in found
    for workload, name in FIGURES.items():
        (figures,) = found["workloads"][workload]["pyqmail"]
        figures.pop("check_cpu_ms", None)  # a difference: of four messages it may be anything
        assert figures[name] > 0 and all(value > 0 for value in figures.values())
