"""The mail that an aggregate report goes in (RFC 9990, Email)."""

import base64
import gzip
import time
from collections.abc import Sequence

from pyqmail.formats.date822 import format_date
from pyqmail.mailauth.aggregate_report import Period, Reporter, report_id

LINE = 76  # characters of base64


def compress(report: bytes) -> bytes:
    """The report as .gz; the same for the same report."""
    return gzip.compress(report, mtime=0)


def format_letter(
    domain: str, data: bytes, period: Period, reporter: Reporter, recipients: Sequence[bytes], now_s: float
) -> bytes:
    """The whole message, LF line ends, with ``data``, a compressed report about ``domain``."""
    identity = report_id(domain, period, reporter)
    name = f"{reporter.name}!{domain}!{period.begin}!{period.end}.xml.gz"
    boundary = f"=_{period.begin}_{period.end}"  # an underscore behind = is in no base64
    day = time.strftime("%Y-%m-%d", time.gmtime(period.begin))
    to = b",\n\t".join(b"<" + each + b">" for each in recipients)
    text = base64.b64encode(data)
    lines = b"\n".join(text[at : at + LINE] for at in range(0, len(text), LINE))
    head = f"""\
From: {reporter.name} DMARC reports <{reporter.email}>
Subject: Report Domain: {domain}
 Submitter: {reporter.name}
 Report-ID: <{identity}>
Message-ID: <{int(now_s)}.{identity}>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="{boundary}"
"""
    body = f"""
--{boundary}
Content-Type: text/plain; charset=us-ascii

What {reporter.name} has seen on {day} (UTC) of mail that says it is from
{domain}, as its DMARC record asks for.

--{boundary}
Content-Type: application/gzip; name="{name}"
Content-Disposition: attachment; filename="{name}"
Content-Transfer-Encoding: base64

"""
    date = b"Date: " + format_date(int(now_s)) + b"\nTo: " + to + b"\n"
    return head.encode() + date + body.encode() + lines + f"\n--{boundary}--\n".encode()
