"""One statement that the server has prepared, asked on a connection of its own without waiting for the answer.

Its values are the bytes that the server reads, and libpq's own calls carry them: what psycopg does in Python for a
statement, to find out types, write arrays and wait, took more time than all else that a copy costs.
"""

import struct
from collections.abc import Sequence

import psycopg
from psycopg import pq

from pyqmail.shadow.database import Away, Database, first_line

UUID, UUIDS, BIGINT, BIGINTS, BYTEAS = 2950, 2951, 20, 1016, 1001  # OIDs that never change (pg_type.dat)
_ELEMENT = {UUIDS: UUID, BIGINTS: BIGINT, BYTEAS: 17}
_HEAD = struct.Struct("!iiIii")  # of an array: dimensions, whether there are nulls, type, length, first index
_LENGTH = struct.Struct("!i").pack
_BIGINT = struct.Struct("!q").pack
_NAME = b"copy"
_DONE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Statement(Database):
    """Can be asked once it is ``ready``, until ``close``. Each method raises Away, and closes nothing then."""

    def __init__(self, url: str, password: str | None, text: bytes, types: Sequence[int]) -> None:
        super().__init__(url, password)
        self._text = text
        self._types = types
        self._formats = [pq.Format.BINARY] * len(types)
        self._pg: pq.abc.PGconn | None = None
        self._changed = 0
        self._wrong = ""

    def prepare(self) -> int:
        """Connect and have the server know it: that may take a while. The descriptor to be watched then."""
        with self._known() as connection:
            result = connection.pgconn.prepare(_NAME, self._text, self._types)
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)
            self._pg = connection.pgconn
            return connection.fileno()

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self._pg is not None

    def send(self, values: Sequence[bytes]) -> bool:
        """Ask it; whether that has left, else ``flush`` goes on with it."""
        assert self._pg is not None
        self._warned, self._changed, self._wrong = False, 0, ""
        try:
            self._pg.send_query_prepared(_NAME, values, self._formats)
        except psycopg.Error as error:
            raise Away(first_line(error)) from error
        return self.flush()

    def flush(self) -> bool:
        """Go on sending; whether all has left."""
        assert self._pg is not None
        try:
            return self._pg.flush() == 0
        except psycopg.Error as error:
            raise Away(first_line(error)) from error

    def receive(self) -> int | None:
        """How many rows it has changed, once it is known to be committed; None before.

        The server says so last: a COMMIT that fails comes after the number of rows.
        """
        assert self._pg is not None
        try:
            self._pg.consume_input()
            while not self._pg.is_busy():
                result = self._pg.get_result()
                if result is None:
                    return self._outcome()
                self._note(result)
        except psycopg.Error as error:
            raise Away(first_line(error)) from error
        return None

    def _note(self, result: pq.abc.PGresult) -> None:
        if result.status in _DONE:
            self._changed = result.command_tuples or 0
        else:
            self._wrong = self._wrong or first_line(psycopg.errors.error_from_result(result))

    def _outcome(self) -> int:
        if self._wrong:
            raise Away(self._wrong)
        if self._warned:
            raise Away("the server has committed, and its standby may not")
        return self._changed

    def close(self) -> None:
        """Give the connection back."""
        self._pg = None
        super().close()


def array(kind: int, items: Sequence[bytes]) -> bytes:
    """An array of that type, of values as the server reads them."""
    parts = [_HEAD.pack(1, 0, _ELEMENT[kind], len(items), 1)]
    for item in items:
        parts += _LENGTH(len(item)), item
    return b"".join(parts)


def bigint(number: int) -> bytes:
    """A number."""
    return _BIGINT(number)
