"""Who has logged in, said in Authentication-Results (RFC 8601), and whether the From is that user's to use."""

from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.own_sender import OFF, fields_of, from_addresses, header_of, may_use
from pyqmail.mailauth.author import BadAuthor, domain_of_author
from pyqmail.mailauth.results import format_results, own_authserv_id
from pyqmail.mailauth.vouching import user_result


class OwnAuthor(Check):
    """The ``auth`` result of a user. A From that rules forbid that user gets no signature from qmail-remote."""

    name = "auth"

    def __init__(self, rules: Rules) -> None:
        self._control = rules.control
        self._bound = any(rules.environ.get(each, b"") not in OFF for each in (b"FORCEAUTHMAILFROM", b"FORCEAUTHFROM"))
        self._hides = rules.environ.get(b"HIDECLIENT", b"") not in OFF

    def holds(self, client: Client) -> bool:
        return client.user is not None

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        if client.user is None:
            return None
        name = own_authserv_id(self._control)
        author = author_of(letter) if self._may_use_from(client.user, letter) else b""
        letter.without_results_of(name)
        letter.prepend(format_results(name, [user_result(b"" if self._hides else client.user, author)]))
        return None

    def _may_use_from(self, user: bytes, letter: Letter) -> bool:
        if not self._bound:
            return True
        if letter.held is None:
            return False
        authors = list(from_addresses(letter.held))
        return all(author is not None and may_use(self._control, user, author) for author in authors)


def author_of(letter: Letter) -> bytes:
    """The domain of the author of a held text; empty where it has no author, or is not held."""
    header = header_of(letter.held) if letter.held is not None else None
    try:
        return domain_of_author([body for name, body in fields_of(header or b"") if name == b"from"])
    except BadAuthor:
        return b""
