"""Who a local part belongs to (contract: spawn section 4, users)."""

from pathlib import Path

import pytest

from pyqmail.formats.assign import parse_assign
from pyqmail.formats.cdb import write_cdb
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.users import Assignment, UsersDatabase, UsersTrouble, find_record, parse_assignment

LINES = (
    b"=joe:exact:1:1:/joe:::\n=joe:second:1:1:/joe:::\n+joe-:long:2:2:/joe:-:pre:\n+jo:short:3:3:/jo:-:r:\n"
    b"+:all:4:4:/all:-::\n+up-X:never:5:5:/:-::\n.\n"
)


def accounts(*, single_user: bool) -> Accounts:
    return Accounts([77] * 8 if single_user else list(range(1, 9)), [88, 89], b"alias")


@pytest.mark.parametrize(
    ("local", "user", "ext"),
    [
        pytest.param(b"joe", b"exact", b"", id="exact, and of two equal lines the first"),
        pytest.param(b"JOE", b"exact", b"", id="case does not matter"),
        pytest.param(b"joe-", b"long", b"pre", id="a wildcard matches itself"),
        pytest.param(b"joe-A-b", b"long", b"preA-b", id="the rest keeps its case"),
        pytest.param(b"joker", b"all", b"joker", id="a wildcard counts only at a wildcard end"),
        pytest.param(b"jo", b"all", b"jo", id="o is no wildcard end unless stored"),
        pytest.param(b"up-xy", b"all", b"up-xy", id="an upper-case wildcard end is never found"),
        pytest.param(b"", b"all", b"", id="the empty local part"),
    ],
)
@pytest.mark.contract(
    "spawn 4.9", "spawn 4.10", "spawn 9.7", "users 1.1", "users 1.2", "users 2.10", "users 2.11", "users 8.4"
)
def test_look_up(tmp_path: Path, local: bytes, user: bytes, ext: bytes) -> None:
    (tmp_path / "users").mkdir()
    lines = LINES.replace(b"+jo:", b"=jo-unused:")
    write_cdb(str(tmp_path / "users/cdb"), parse_assign(lines))
    record = UsersDatabase(str(tmp_path), accounts(single_user=False)).find(local)
    assert record is not None
    found = parse_assignment(record)
    assert found is not None
    assert (found.user, found.ext) == (user, ext)


@pytest.mark.contract("spawn 4.11", "users 2.10")
def test_the_longest_wildcard_wins() -> None:
    records = dict(reversed(list(parse_assign(LINES))))
    assert find_record(records.get, b"joe-x") == b"long\x002\x002\0/joe\0-\0prex\0"
    assert find_record(records.get, b"jox") == b"short\x003\x003\0/jo\0-\0rx\0"


@pytest.mark.contract("spawn 4.9", "users 3.7")
def test_a_missing_special_record_and_a_damaged_file_are_trouble(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    users = UsersDatabase(str(tmp_path), accounts(single_user=False))
    assert users.find(b"joe") is None
    write_cdb(str(tmp_path / "users/cdb"), [(b"!joe\0", b"")])
    with pytest.raises(UsersTrouble):
        users.find(b"joe")
    (tmp_path / "users/cdb").write_bytes(b"")
    with pytest.raises(UsersTrouble):
        users.find(b"joe")


@pytest.mark.contract("spawn 4.4", "spawn 4.7")
def test_records_split_into_six_fields() -> None:
    assert parse_assignment(b"u\x0012x\0y\0/h\0-\0e\0") == Assignment(b"u", 12, 0, b"/h", b"-", b"e")
    assert parse_assignment(b"u\x0012\x003\0/h\0-\0e") is None


def test_a_single_user_tree_reads_assign_and_catches_all_below_its_own_home(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    users = UsersDatabase(str(tmp_path), accounts(single_user=True))
    caught = b"alias\x0077\x0088\0" + bytes(tmp_path) + b"/home\0-\0root\0"
    assert users.find(b"root") == caught
    (tmp_path / "users/assign").write_bytes(b"=joe:joe:1:1:/joe:::\n.\n")
    assert users.find(b"JOE") == b"joe\x001\x001\0/joe\0\0\0"
    assert users.find(b"root") == caught
    (tmp_path / "users/assign").write_bytes(b"=joe:joe:1:1:/joe:::\n")
    with pytest.raises(UsersTrouble):
        users.find(b"joe")


@pytest.mark.contract("users 4.8")
def test_a_new_cdb_counts_at_once(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    users = UsersDatabase(str(tmp_path), accounts(single_user=False))
    for name in (b"one", b"two", b"three"):
        write_cdb(str(tmp_path / "users/cdb.tmp"), [(b"!joe\0", name), (b"", b"")])
        (tmp_path / "users/cdb.tmp").rename(tmp_path / "users/cdb")
        assert users.find(b"joe") == name + b"\0"
    (tmp_path / "users/cdb").unlink()
    assert users.find(b"joe") is None


@pytest.mark.contract("users 2.9")
def test_fields_are_taken_as_they_are() -> None:
    records = dict(parse_assign(b"=a:u s:x1:-3::::\n=b:b:1:0x:rel/../home:anything:e:\n.\n"))
    first = parse_assignment(records[b"!a\0"] + b"\0")
    second = parse_assignment(records[b"!b\0"] + b"\0")
    assert first == Assignment(b"u s", 0, 0, b"", b"", b"")
    assert second == Assignment(b"b", 1, 0, b"rel/../home", b"anything", b"e")
