"""The database that the nodes share, and a node that lives as long as the tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mailhost import ensure_user, fresh_maildir, own_user
from tests.postgresql import PostgreSQL, postgresql
from tests.shadow.node import Node, load_schema, node

USER = own_user("pqshadow")


@pytest.fixture(scope="session")
def database() -> Iterator[PostgreSQL]:
    """Debian's PostgreSQL with the tables of the example."""
    with postgresql() as server:
        load_schema(server)
        yield server


@pytest.fixture(scope="session")
def host(database: PostgreSQL) -> Iterator[Node]:
    """A node that refuses what cannot be copied."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the tree has seven users")
    with node(database, "one.example.test") as made:
        yield made


@pytest.fixture
def maildir() -> Path:
    """The empty Maildir of USER."""
    ensure_user(USER)
    return fresh_maildir(USER)
