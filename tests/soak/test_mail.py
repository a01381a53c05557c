"""The soak of tests/soak/mail.py, for moments."""

import os

import pytest

from tests.soak.mail import soak

SECONDS = 15.0
SEED = 77


@pytest.mark.skipif(os.getuid() != 0, reason="needs the real users")
def test_mixed_mail_with_faults_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        assert soak(SECONDS, SEED) == 0
