"""What every source of accounts can do, and the one that control/accounts names (qmail-accounts(8))."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from pyqmail.login.account_settings import AccountSettings, AccountsTrouble


class AccountSource(Protocol):
    """An open connection. All methods raise AccountsTrouble where it cannot be known now."""

    def domains(self) -> Iterator[tuple[bytes, ...]]:
        """Each domain."""
        ...

    def addresses(self) -> Iterator[tuple[bytes, ...]]:
        """Address, kind, value and quota, sorted by bytes: kind ``a`` with a target, then ``u`` with a directory."""
        ...

    def some(self, addresses: Sequence[str]) -> Iterator[tuple[bytes, ...]]:
        """The rows of ``addresses`` whose address is one of these, which are in lower case."""
        ...

    def changes(self) -> Iterator[str]:
        """Each address that has changed, as it comes; empty where anything may have, and so at the beginning."""
        ...

    def knows(self, address: str, password: bytes) -> bool:
        """Whether ``password`` is that of ``address``, which is in lower case. Raises HashFormat too."""
        ...

    def senders(self) -> Iterator[tuple[bytes, ...]]:
        """User and address that he may send as, sorted by bytes."""
        ...


def load_source(settings: AccountSettings) -> Callable[[AccountSettings], AccountSource]:
    """What opens the source that ``settings`` name; by now its library is in memory. Raises AccountsTrouble."""
    try:
        if settings.source == "ldap":
            from pyqmail.login.account_directory import AccountDirectory

            return AccountDirectory
        from pyqmail.login.account_database import AccountDatabase
    except ImportError as error:
        raise AccountsTrouble(f"{error.name} is missing: qmail-setup --with accounts") from None
    return AccountDatabase
