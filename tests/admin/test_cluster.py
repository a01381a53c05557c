"""control-examples/cluster: valid for Kubernetes and HAProxy, and the same container as that of the recipe."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pyqmail.dependencies import groups_of, read_lock
from tests.certificates import self_signed

ROOT = Path(__file__).resolve().parents[2]
CLUSTER, RECIPE = ROOT / "control-examples/cluster", ROOT / "control-examples/container"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
COMPOSE: dict[str, Any] = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
VERSIONS = ("1.33", "1.37")
DOORS = {"10025": "qmail-smtpd", "2209": "qmail-xferd", "25": "qmail-smtpd"}  # port: program, as start has them


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in DOCUMENTS if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = named("StatefulSet", "pyqmail")["spec"]["template"]["spec"]
    return spec


def node() -> dict[str, Any]:
    (container,) = pod()["containers"]
    return dict(container)


def recipe() -> list[str]:
    """The words of the command in the recipe's README that runs the container."""
    (text,) = re.findall(r"^    (podman run (?:.*\\\n)*.*)$", (RECIPE / "README.md").read_text(), re.M)
    return shlex.split(text.replace("\\\n", " "))


def after(option: str) -> list[str]:
    """What the recipe's command gives as ``option``."""
    words = recipe()
    return [words[at + 1] for at, word in enumerate(words) if word == option]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_knows_each_word(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_word_that_kubernetes_does_not_know_is_found() -> None:
    wrong = {**named("PodDisruptionBudget", "pyqmail"), "spec": {"maxUnavailible": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_manifest_runs_the_recipes_container() -> None:
    command = recipe()[recipe().index("ROOT") + 1 :]
    places = {volume.partition(":")[2] for volume in after("--volume")}
    assert node()["command"] == command
    mounts = {mount["mountPath"]: mount for mount in node()["volumeMounts"]}
    assert {path for path, mount in mounts.items() if mount["name"] == "node"} == places
    memory = {path for path, mount in mounts.items() if mount["name"] == "memory"}
    assert memory == {"/run", "/tmp", "/var/qmail/run"} and len({mount["subPath"] for mount in mounts.values()}) == 6
    for name in ("pyqmail-0", "pyqmail-1"):
        service = COMPOSE["services"][name]
        assert service["entrypoint"] == command
        assert {volume.partition(":")[2] for volume in service["volumes"]} == places
        assert set(service["tmpfs"]) == memory and service["read_only"] is True
        assert service["healthcheck"]["test"] == ["CMD", "/usr/local/sbin/" + Path(*after("--health-cmd")).name]
        assert (service["stop_signal"], service["stop_grace_period"]) == ("SIGTERM", after("--stop-timeout")[0] + "s")
        assert set(service["expose"]) == set(DOORS)
    own = [volume for name in ("pyqmail-0", "pyqmail-1") for volume in COMPOSE["services"][name]["volumes"]]
    assert len({volume.partition(":")[0] for volume in own}) == len(own)  # one queue, one node
    assert {volume.partition(":")[0] for volume in own} == set(COMPOSE["volumes"])


def test_the_ports_are_those_that_the_container_opens() -> None:
    start = (RECIPE / "start").read_text()
    assert dict(re.findall(r'"0", "(\d+)", "(qmail-\w+)"', start)) == DOORS
    assert {str(port["containerPort"]) for port in node()["ports"]} == set(DOORS)
    names = {port["name"] for port in node()["ports"]}
    assert {port["targetPort"] for port in named("Service", "pyqmail")["spec"]["ports"]} <= names
    nodes = re.findall(r"^  server (\S+) (\S+):(\d+)$", (CLUSTER / "haproxy.cfg").read_text(), re.M)
    assert nodes == [(f"pyqmail-{at}", f"pyqmail-{at}.pyqmail", "10025") for at in range(2)]
    assert named("StatefulSet", "pyqmail")["spec"]["replicas"] == len(nodes)


def test_probes_ask_what_they_are_for_and_time_is_left_to_drain() -> None:
    def words(probe: str) -> list[str]:
        asked: list[str] = node()[probe]["exec"]["command"]
        return asked

    assert words("readinessProbe") == ["/usr/local/sbin/health", "room", "qmail-queued", "qmail-smtpd"]
    assert words("livenessProbe") == ["/usr/local/sbin/health", "qmail-send"]
    (checks,) = re.findall(r"^CHECKS = \{(.*)\}$", (RECIPE / "health").read_text(), re.M)
    assert {*words("readinessProbe")[1:], *words("livenessProbe")[1:]} == set(re.findall(r'"(\S+)":', checks))
    *shell, script = node()["lifecycle"]["preStop"]["exec"]["command"]
    end, drain = script.split("; ")
    _, timeout, drain_s, *drained = drain.split()
    assert (shell, end, timeout) == (["/bin/sh", "-c"], "kill -USR1 1", "timeout")
    assert drained == ["/var/qmail/bin/qmail-q", "xfer"]
    assert pod()["terminationGracePeriodSeconds"] == int(drain_s) + int(after("--stop-timeout")[0])


def test_the_readme_calls_our_programs_as_they_want_to_be(tmp_path: Path) -> None:
    text = (CLUSTER / "README.md").read_text()
    (words,) = (shlex.split(line.partition("#")[0]) for line in text.splitlines() if line.startswith("    qmail-cert "))
    certificate = self_signed(tmp_path, "pyqmail-0.pyqmail")
    (tmp_path / "mx.pem").write_bytes(certificate.with_suffix(".crt").read_bytes())
    (tmp_path / "mx.key").write_bytes(certificate.with_suffix(".key").read_bytes())
    command = [ROOT / "bin" / words[0], "check", *words[2:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert words[1] == "install" and "for pyqmail-0.pyqmail" in done.stdout, done.stdout + done.stderr
    groups = set(re.findall(r"--with (\w+)", text))
    assert groups and groups <= set(groups_of(read_lock())), groups


def test_haproxy_takes_its_file(tmp_path: Path) -> None:
    haproxy = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    assert haproxy is not None, "haproxy is not installed"
    words = [haproxy, "-c", "-f", str(CLUSTER / "haproxy.cfg")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if "[WARNING]" in line and "could not resolve" not in line]
    assert (done.returncode, warnings) == (0, []), done.stderr
