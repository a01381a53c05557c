"""What qmail-rspawn's workers find in memory (pyqmail.remote.preload)."""

from pathlib import Path

import pytest

from pyqmail.remote import preload


@pytest.mark.parametrize(
    ("controls", "loaded"),
    [
        pytest.param({}, {"tls_client"}, id="no file"),
        pytest.param({"remotelimits": "*::"}, {"tls_client", "limiter"}, id="limits"),
        pytest.param({"domainkeys/a.example": ""}, {"tls_client", "signatures"}, id="keys for DKIM"),
        pytest.param({"remoteehlo": "0"}, set(), id="HELO only"),
    ],
)
def test_workers_find_what_their_deliveries_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controls: dict[str, str], loaded: set[str]
) -> None:
    """One that imports it by itself takes several times the processor time to begin."""
    (tmp_path / "control").mkdir()
    for name, text in controls.items():
        path = tmp_path / "control" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    names: list[str] = []
    monkeypatch.setattr(preload, "import_module", names.append)
    preload.preload(str(tmp_path))
    assert {name.rpartition(".")[2] for name in names} == loaded


def test_what_cannot_be_imported_is_left_to_qmail_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "control").mkdir()
    monkeypatch.setattr(preload, "TLS", "pyqmail.remote.half_an_upgrade")
    preload.preload(str(tmp_path))
    preload.preload(str(tmp_path / "nowhere"))
