"""TLSA records in bytes: which of them mail can use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.remote.tlsa import Tlsa, Usage, parse_tlsa


@pytest.mark.parametrize(
    ("raw", "record"),
    [
        pytest.param(b"\3\1\1" + bytes(32), Tlsa(Usage.END_ENTITY, True, "sha256", bytes(32)), id="3 1 1"),
        pytest.param(b"\2\0\2" + bytes(64), Tlsa(Usage.TRUST_ANCHOR, False, "sha512", bytes(64)), id="2 0 2"),
        pytest.param(b"\3\0\0abc", Tlsa(Usage.END_ENTITY, False, "", b"abc"), id="3 0 0"),
        pytest.param(b"\1\1\1" + bytes(32), None, id="PKIX-EE"),
        pytest.param(b"\0\0\1" + bytes(32), None, id="PKIX-TA"),
        pytest.param(b"\3\2\1" + bytes(32), None, id="an unknown selector"),
        pytest.param(b"\3\1\3" + bytes(48), None, id="an unknown digest"),
        pytest.param(b"\3\1\1" + bytes(31), None, id="too short for its digest"),
        pytest.param(b"\3\1\0", None, id="no data"),
    ],
)
def test_records(raw: bytes, record: Tlsa | None) -> None:
    assert parse_tlsa(raw) == record


def test_a_record_as_zone_files_have_it() -> None:
    assert Tlsa(Usage.END_ENTITY, True, "sha256", bytes(range(32))).text() == "3 1 1 0001020304050607..."


@given(st.binary(max_size=80))
def test_any_bytes_are_a_record_or_none(raw: bytes) -> None:
    parse_tlsa(raw)
