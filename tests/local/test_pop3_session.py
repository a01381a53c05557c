"""What a POP3 session costs where a Maildir is odd or large."""

from hashlib import sha256

import pytest

from pyqmail.local import pop3_session
from pyqmail.local.pop3_session import Message, Session, unique_ids


def test_copies_with_one_name_time_and_size_cost_a_digest_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    digest = pop3_session._digest

    def counted(text: bytes) -> bytes:
        made.append(text)
        return digest(text)

    monkeypatch.setattr(pop3_session, "_digest", counted)
    ids = unique_ids([Message(7, b"cur/a:%d" % number, 9) for number in range(1000)])
    assert len(made) == 999 and len(set(ids)) == 1000
    assert ids[:3] == [b"a", *(sha256(b"a 7 9 %d" % copy).hexdigest()[:32].encode() for copy in range(2))]


def test_a_copy_gives_way_to_whoever_has_its_digest_as_a_name() -> None:
    taken = sha256(b"a 7 9 0").hexdigest()[:32].encode()
    ids = unique_ids([Message(7, path, 9) for path in (b"new/a", b"new/" + taken, b"cur/a:2,", b"cur/a:2,S")])
    assert ids[:2] == [b"a", taken] and len(set(ids)) == 4


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_a_listing_in_pieces_is_whole(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(pop3_session, "LINES", 2)
    session = Session([Message(7, b"new/%d" % number, number) for number in range(count)])
    lines = b"".join(b"%d %d\r\n" % (number + 1, number) for number in range(count))
    assert b"".join(session.answer(b"LIST")) == b"+OK \r\n" + lines + b".\r\n"


def test_where_memory_ends_before_a_listing_begins_it_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(messages: list[Message]) -> list[bytes]:
        raise MemoryError

    monkeypatch.setattr(pop3_session, "unique_ids", end)
    with pytest.raises(MemoryError):
        next(Session([Message(7, b"new/1", 9)]).answer(b"UIDL"))
