"""Which services of PAM answer from files alone, and from which."""

from pathlib import Path

import pytest

from pyqmail.login.pam_service import DATABASES, FILE_MAX, deciding_files

UNIX = "auth required pam_unix.so\naccount required pam_unix.so\n"


def decided(directory: Path, **services: str) -> "tuple[str, ...] | None":
    for name, text in services.items():
        (directory / name).write_text(text)
    return deciding_files("pop3", str(directory))


def test_what_install_writes_asks_three_databases(tmp_path: Path) -> None:
    assert decided(tmp_path, pop3=UNIX) == (f"{tmp_path}/pop3", *DATABASES)


@pytest.mark.parametrize(
    "text",
    [
        "@include common\n",
        "auth include common\naccount include common\n",
        "AUTH substack common\n-account include common\n",
    ],
)
def test_files_that_are_included_decide_too(tmp_path: Path, text: str) -> None:
    found = decided(tmp_path, pop3=text, common=UNIX)
    assert found is not None and set(found) == {f"{tmp_path}/pop3", f"{tmp_path}/common", *DATABASES}


def test_what_debian_installs_is_understood(tmp_path: Path) -> None:
    auth = "auth\t[success=1 default=ignore]\tpam_unix.so nullok\nauth\trequisite\tpam_deny.so\n"
    account = "account [success=1 default=ignore] \\\n  pam_unix.so # by hand\naccount required pam_permit.so"
    session = "session optional pam_systemd.so\npassword required pam_pwquality.so\n"
    assert decided(tmp_path, pop3=auth + session + account) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "auth required pam_unix.so\n",  # PAM asks "other" for the accounts
        UNIX + "auth required pam_oath.so\n",  # a password for once
        UNIX + "account required pam_nologin.so\n",
        UNIX + "auth optional pam_faillock.so\n",
        UNIX + "auth sufficient pam_sss.so\n",
        UNIX + "auth [success=1 default=ignore] pam_ldap.so\n",
        UNIX + "auth required /opt/lib/pam_unix.so\n",
        UNIX + "auth required\n",
        UNIX + "auth [success=1\n",
        UNIX + "@include missing\n",
        UNIX + "@include ../../etc/passwd\n",
        UNIX + "@include pop3\n",  # for ever
        UNIX + "# \xe4\n",
        UNIX + "#" * FILE_MAX,
    ],
)
def test_what_may_ask_anybody_else_has_no_files(tmp_path: Path, text: str) -> None:
    assert decided(tmp_path, pop3=text) is None


def test_a_service_that_is_missing_has_no_files(tmp_path: Path) -> None:
    assert decided(tmp_path) is None
