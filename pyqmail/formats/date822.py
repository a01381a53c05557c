"""Dates in headers: ``26 Sep 1995 04:46:53 -0000``, the day unpadded and no weekday. Pure and light."""

import time

MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def format_date(seconds: float) -> bytes:
    """The date in UTC; ``-0000`` says that the zone of the writer is not told."""
    return _format(time.gmtime(seconds), b"-0000")


def format_local_date(seconds: int) -> bytes:
    """The date in the local zone, with its offset."""
    local = time.localtime(seconds)
    minutes = local.tm_gmtoff // 60
    sign = b"-" if minutes < 0 else b"+"
    return _format(local, b"%s%02d%02d" % (sign, abs(minutes) // 60, abs(minutes) % 60))


def format_stamp(seconds: int) -> bytes:
    """The date in UTC as the fourteen digits of a Message-ID."""
    return b"%04d%02d%02d%02d%02d%02d" % time.gmtime(seconds)[:6]


def _format(moment: time.struct_time, zone: bytes) -> bytes:
    year, month, day, hour, minute, second = moment[:6]
    return b"%d %s %d %02d:%02d:%02d %s" % (day, MONTHS[month - 1], year, hour, minute, second, zone)
