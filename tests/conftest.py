"""What all tests share: small trees, and the rule that a whole run skips nothing."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# What turns red was changed, not drawn by lot, and no machine was too busy: the long form looks for what is new.
PATIENT = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("patient", PATIENT)
hypothesis.settings.register_profile("the same", PATIENT, derandomize=True)
hypothesis.settings.load_profile("patient" if os.environ.get("PYQMAIL_TESTS_LONG") else "the same")


def pytest_configure(config: pytest.Config) -> None:
    """The modules that the checkout's own launchers need are those of the lock; nothing to do when they are there."""
    root = Path(__file__).resolve().parents[1]
    subprocess.run([root / "bin" / "qmail-setup", "--modules", root / ".deps"], check=True, stdout=subprocess.DEVNULL)


# Bare roots are made by root, and not in a bare root (tests/fresh).
BARE = ["admin/test_debian_package.py", "admin/test_container.py"]
collect_ignore = [] if os.geteuid() == 0 and not os.environ.get("PYQMAIL_FRESH") else BARE


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test meets a home or a wrapper of the caller's."""
    for name in ("QMAIL_HOME", "QMAILQUEUE", "QMAILREMOTE", "RELAYCLIENT", "DESTDIR"):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture
def single_user_home(tmp_path: Path) -> Path:
    """A home with control files that give every role to one unprivileged number."""
    uid = os.geteuid() or 65534
    gid = os.getegid() or 65534
    home = tmp_path / "qmail"
    (home / "control").mkdir(parents=True)
    (home / "control" / "conf-users").write_text(f"{uid}\n" * 8)
    (home / "control" / "conf-groups").write_text(f"{gid}\n" * 2)
    (home / "control" / "me").write_text("mx.example.test\n")
    return home


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly when a run that must be whole was not."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("PYQMAIL_TESTS_WHOLE"):
        terminalreporter.write_line(f"FAILED: {len(skipped)} tests were skipped, and as root none may be", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test fails a whole run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and os.environ.get("PYQMAIL_TESTS_WHOLE") and reporter.stats.get("skipped"):
        session.exitstatus = 1
