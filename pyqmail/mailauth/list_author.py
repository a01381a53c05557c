"""The From of a list's mail where the author's domain would have it refused: the list's own (qmail-listfrom(8)).

A list changes messages and sends them from another host, so that neither signature nor SPF speak for the author any
more. Where the author's domain asks for quarantine or refusal of such mail, From becomes ``"Ann via list" <list@host>``
and the author stands in Reply-To.
"""

import re
from collections.abc import Sequence

from pyqmail.mailauth.author import BadAuthor, author_domain
from pyqmail.mailauth.canonical import BadHeader, Field, parse_fields
from pyqmail.mailauth.dmarc import policy_for
from pyqmail.mailauth.lookups import Lookups

NAME_MAX = 200  # bytes of the author's name
_ATOMS = re.compile(rb"[\w!#$%&'*+/=?^`{|}~-]+(?: [\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)  # encoded words are such
_UNFIT = re.compile(rb"[\x00-\x1f\x7f]+")


def list_header(header: bytes, address: bytes, name: bytes, lookups: Lookups) -> bytes:
    """``header`` as the list ``name`` at ``address`` may send it; itself where that is as it is. LF line ends.

    Raises TemporaryFailure where nobody can say what the author's domain asks for.
    """
    try:
        fields = parse_fields(header)
        domain = author_domain(fields)
    except (BadHeader, BadAuthor):
        return header  # nobody's policy counts
    if domain == address.rpartition(b"@")[2].lower() or policy_for(domain, lookups) not in (b"quarantine", b"reject"):
        return header
    (author,) = (field for field in fields if field.name == b"from")
    replies = [field for field in fields if field.name == b"reply-to"]
    written = b"From: %b\n\t<%b>\n" % (_phrase(_name_in(author.body), name), address)
    if not replies:
        written += b"Reply-To:" + author.body
    return b"".join(_written(field, author, written, replies) for field in fields)


def _written(field: Field, author: Field, instead: bytes, replies: Sequence[Field]) -> bytes:
    if field is author:
        return instead
    if replies == [field]:
        return b"Reply-To:" + field.body.rstrip(b"\n \t") + b",\n\t" + author.body.lstrip(b" \t")
    return field.text


def _name_in(body: bytes) -> bytes:
    """What a From field calls its author: the name, without quotes, else the local part of the address."""
    text = b" ".join(body.split())
    name, bracket, rest = text.partition(b"<")
    if not bracket:
        name, _, comment = text.partition(b"(")
        return comment.removesuffix(b")").strip() or name.partition(b"@")[0].strip()
    name = name.strip()
    if len(name) > 1 and name.startswith(b'"') and name.endswith(b'"'):
        name = re.sub(rb"\\(.)", rb"\1", name[1:-1])
    return name or rest.partition(b"@")[0].strip()


def _phrase(author: bytes, name: bytes) -> bytes:
    """``Ann via list``, in quotes where it has to be; encoded words must not stand in quotes."""
    text = _UNFIT.sub(b" ", author[:NAME_MAX] + b" via " + name)
    if _ATOMS.fullmatch(text):
        return text
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", text) + b'"'
