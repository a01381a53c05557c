"""The maps that qmail-send has in force, as it tells qmail-rcptd: a netstring of netstrings for each reading."""

from pyqmail.formats.netstring import format_netstring, format_netstrings, parse_netstrings
from pyqmail.policy.classify import Routing


def format_routing(routing: Routing) -> bytes:
    """The maps as one record."""
    pairs = [item for pair in routing.virtual.items() for item in pair]
    parts = (
        routing.default_host,
        format_netstrings(sorted(routing.locals)),
        format_netstrings(sorted(routing.percent_hack)),
        format_netstrings(pairs),
    )
    return format_netstring(format_netstrings(parts))


def parse_routing(record: bytes) -> Routing:
    """The maps in a record, less its outermost netstring. Raises NetstringError and ValueError."""
    default_host, local_domains, percent_hack, virtual = parse_netstrings(record)
    pairs = parse_netstrings(virtual)
    return Routing(
        default_host=default_host,
        locals=frozenset(parse_netstrings(local_domains)),
        percent_hack=frozenset(parse_netstrings(percent_hack)),
        virtual=dict(zip(pairs[::2], pairs[1::2], strict=True)),
    )
