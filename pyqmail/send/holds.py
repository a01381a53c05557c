"""What people ordered and must outlive a restart: queue/pyqmail/orders (qmail-q(8)).

    hold N BIRTH        message N is not tried until it is released
    delete N BIRTH      message N is to be removed, as soon as none of its deliveries runs
    bounce N BIRTH      the rest of message N is to be returned, as soon as none of its deliveries runs
    moved N BIRTH       message N has been taken in by another node, and has no recipients left here
    domain NAME         no recipient in this domain is tried until it is released

One order a line, of qmails, 0600. BIRTH is the mtime of info/N: the number of a message is used again later, and then
the order must not fall on the new one. The file is replaced whole and synced before an order is confirmed.
"""

import os
from dataclasses import dataclass, field

from pyqmail.spool.layout import Layout
from pyqmail.system import files

FILE = "orders"
HOLD, DELETE, BOUNCE, MOVED, DOMAIN = b"hold", b"delete", b"bounce", b"moved", b"domain"


class OrdersUnreadable(Exception):
    """The file of orders is there and cannot be used; the text says why."""


@dataclass(slots=True)
class Orders:
    """The orders in force. ``held``: number to birth; ``endings``: number to (delete, bounce or moved, birth)."""

    held: dict[int, int] = field(default_factory=dict)
    endings: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    domains: set[bytes] = field(default_factory=set)
    outdated: bool = field(default=False, compare=False)  # the file has orders for messages that are gone


def format_orders(orders: Orders) -> bytes:
    """The bytes of the file."""
    lines = [b"hold %d %d" % item for item in orders.held.items()]
    lines += [b"%b %d %d" % (kind, number, birth) for number, (kind, birth) in orders.endings.items()]
    lines += [b"domain " + name for name in sorted(orders.domains)]
    return b"".join(line + b"\n" for line in lines)


def parse_orders(data: bytes) -> Orders:
    """The orders in ``data``. Raises OrdersUnreadable: half an order is none to follow."""
    orders = Orders()
    for line in data.split(b"\n")[:-1]:
        kind, _, rest = line.partition(b" ")
        if kind == DOMAIN and rest:
            orders.domains.add(rest)
            continue
        number, _, birth = rest.partition(b" ")
        if kind not in (HOLD, DELETE, BOUNCE, MOVED) or not number.isdigit() or not birth.isdigit():
            raise OrdersUnreadable("it has a line that is no order")
        if kind == HOLD:
            orders.held[int(number)] = int(birth)
        else:
            orders.endings[int(number)] = kind, int(birth)
    return orders


def read_orders(layout: Layout) -> Orders:
    """The orders on disk that fall on a message still in the queue. Raises OrdersUnreadable."""
    try:
        orders = parse_orders(files.read_file(f"{layout.private}/{FILE}"))
    except FileNotFoundError:
        return Orders()
    except OSError as error:
        raise OrdersUnreadable((error.strerror or "error").lower()) from error
    for number, birth in list(orders.held.items()):
        if _is_another(layout, number, birth):
            del orders.held[number]
            orders.outdated = True
    for number, (_, birth) in list(orders.endings.items()):
        if birth_of(layout, number) != birth:  # info/N goes last: without it the order has been carried out
            del orders.endings[number]
            orders.outdated = True
    return orders


def write_orders(layout: Layout, data: bytes) -> None:
    """Replace the file by ``data``, durably. Raises OSError."""
    path = f"{layout.private}/{FILE}"
    files.replace_file(path + ".new", path, data, mode=0o600)


def _is_another(layout: Layout, number: int, birth: int) -> bool:
    """Whether the message that was held has gone; where that cannot be known it stays held."""
    try:
        return int(os.stat(layout.info(number)).st_mtime) != birth
    except FileNotFoundError:
        return True
    except OSError:
        return False


def birth_of(layout: Layout, number: int) -> int | None:
    """The birth of a preprocessed message; None when there is no such message."""
    try:
        return int(os.stat(layout.info(number)).st_mtime)
    except OSError:
        return None
