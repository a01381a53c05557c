"""The installed trees that the integration tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mailhost import MailHost, ensure_user, fresh_maildir, install, own_user
from tests.public_directory import public_directory

USER = own_user("pqtest")


@pytest.fixture(scope="session")
def installed_home() -> Iterator[Path]:
    """A tree with the real users, installed once."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the tree has seven users")
    with public_directory() as base:
        ensure_user(USER)
        install(base / "qmail", me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n",
                defaulthost="example.test\n", defaultdomain="example.test\n", plusdomain="example.test\n")  # fmt: skip
        yield base / "qmail"


@pytest.fixture
def maildir() -> Path:
    """The empty Maildir of the test user."""
    return fresh_maildir(USER)


@pytest.fixture
def host(installed_home: Path, maildir: Path) -> Iterator[MailHost]:
    """A running host: delivery and SMTP through our own tcpserver."""
    made = MailHost(installed_home)
    made.log.unlink(missing_ok=True)
    made.log.touch()
    made.start_delivery()
    made.start_smtp()
    yield made
    made.stop()
