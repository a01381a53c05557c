"""Rows of a database of accounts as values: what each part may be, and what becomes of whole addresses."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.admin.accounts import rows
from pyqmail.admin.accounts.feed import format_row
from pyqmail.admin.accounts.rows import Entry, Reading, Refusals, Refused
from pyqmail.formats.assign import parse_record

DOMAINS = frozenset((b"v.test",))
HOMES = b"/var/vmail"


def home(field: bytes) -> bytes:
    return rows.parse_home(field, HOMES, b"ann", b"v.test")


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (lambda field: rows.parse_domain(field, frozenset((b"own.test",))),
         [b"a.test", b"xn--bcher-kva.example", b"_x.a.test"],
         [b"", b"test", b"own.test", b"A.test", b"a..test", b"-a.test", b"a.test.", b"a.test\n", b"a:b.test",
          b"a/../b.test", b"\xc3\xbc.test", b"a." * 130 + b"test"]),
        (lambda field: rows.parse_address(field, DOMAINS),
         [b"ann@v.test", b"@v.test", b"a.b+c@v.test", b"o'brien@v.test", b"%s@v.test", b"default@v.test"],
         [b"", b"v.test", b"ann@x.test", b"a/b@v.test", b"*a@v.test", b".a@v.test", b"a.@v.test", b"..@v.test",
          b"a b@v.test", b"a:b@v.test", b"a\0b@v.test", b"a\nb@v.test", b"a@b@v.test", b"\xff@v.test",
          b"x" * 65 + b"@v.test"]),
        (home,
         [b"", b"a", b"a/b/c/", b"/var/vmail/a", b"..a/b", b"a..b"],
         [b"/", b"/etc", b"..", b"a/../b", b"./a", b"a//b", b"a:b", b"a b", b"a\0", b"a\n",
          b"/var/vmail/../x", b"x" * 600]),
        (rows.parse_quota, [b"", b"0", b"10", b"10S,5C"], [b"x", b"-1", b"10X", b"1" * 20]),
        (rows.parse_targets,
         [b"a@b.test", b" a@b.test, c@d.test ,", b"\"x\"@[192.0.2.1]"],
         [b"", b",", b"a", b"|x", b"/etc/passwd", b"a@b.test\0", b"a@b.test\n", b"a@b test", b"a@",
          b"x" * 900 + b"@b.test"]),
    ],
    ids=["domain", "address", "home", "quota", "targets"],
)  # fmt: skip
def test_what_a_part_of_a_row_may_be(parse: Callable[[bytes], object], good: list[bytes], bad: list[bytes]) -> None:
    for field in good:
        parse(field)
    for field in bad:
        with pytest.raises(Refused):
            parse(field)


def entries(*given: tuple[bytes, bytes, bytes, bytes]) -> tuple[list[Entry], list[str]]:
    """What becomes of rows, and what is said of those that cannot be."""
    said: list[str] = []
    return list(Reading(HOMES, DOMAINS, Refusals(said.append)).entries(given)), said


def test_a_user_a_copy_and_an_alias() -> None:
    found, said = entries(
        (b"ann@v.test", b"u", b"", b"5S"),
        (b"bob@v.test", b"a", b"bob@v.test", b""), (b"bob@v.test", b"a", b"x@y.test", b""),
        (b"bob@v.test", b"u", b"b", b""),
        (b"team@v.test", b"a", b"ann@v.test,|x", b""), (b"team@v.test", b"a", b"bob@v.test", b""),
    )  # fmt: skip
    assert found == [
        Entry(b"ann", b"v.test", b"v.test/ann", b"5S", ()),
        Entry(b"bob", b"v.test", b"b", b"", (b"bob@v.test", b"x@y.test")),
        Entry(b"team", b"v.test", None, b"", (b"bob@v.test",)),
    ]
    assert said == ["team@v.test: no address to forward to: this row is left out"]


def test_what_is_said_of_many_rows_is_bounded() -> None:
    said: list[str] = []
    refusals = Refusals(said.append)
    for _ in range(1000):
        refusals.add(b"\x1b[2J" + b"x" * 5000, "no")
    refusals.end()
    assert len(said) == 101 and said[-1] == "900 more rows are left out"
    assert all(len(line) < 300 and line.isprintable() for line in said)


@given(st.lists(st.tuples(*[st.binary(max_size=12) | st.sampled_from([b"ann@v.test", b"u", b"a", b"x@y.test"])] * 4)))
def test_no_row_raises_and_each_entry_is_one_line(given: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    for entry in entries(*given)[0]:
        assert b"\n" not in (entry.home or b"") and b":" not in entry.address + (entry.home or b"")
        parse_record(b"=%b:o:1:1:%b:::" % (entry.address, entry.home or b""))


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4))
def test_a_row_on_the_pipe_is_one_line_of_its_own_width(fields: list[bytes]) -> None:
    line = format_row(b"address", fields)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert line.startswith(b"odd\0") or line[:-1].split(b"\0")[1:] == fields
