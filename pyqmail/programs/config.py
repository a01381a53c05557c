"""config: first control files from what DNS says about this host (config(8)).

The host name leads to an address, and the address back to the fully qualified name. locals gets the name behind each
address of the host and of its interfaces; rcpthosts is a copy. Where the name is not found, nothing is written.
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence

import dns.exception
import dns.resolver
import dns.reversename

from pyqmail.admin.first_controls import put, usable_name, write_names
from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.policy.interfaces import ipv4_addresses, ipv6_entries
from pyqmail.protocol.dns import format_address
from pyqmail.resolver import Servers, read_servers
from pyqmail.system.files import write_all

GLOBAL_SCOPE = b"00"
HARD, SOFT = 100, 111
LOOKUP_S = 30.0


class NotFound(Exception):
    """DNS has no answer; ``code`` says whether asking again may help."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Names:
    """Questions to the name servers of resolv.conf or control/dnsservers."""

    def __init__(self, servers: Servers) -> None:
        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in servers.servers]
        self._lifetime = LOOKUP_S

    def addresses(self, name: str) -> list[str]:
        """The IPv4 addresses of ``name``, then its IPv6 ones. Raises NotFound."""
        found = self._ask(name, "A")
        try:
            found += self._ask(name, "AAAA")
        except NotFound:
            if not found:
                raise
        if not found:
            raise NotFound("hard error", HARD)
        return found

    def name_of(self, address: str) -> str:
        """The name that ``address`` leads to. Raises NotFound."""
        names = self._ask(dns.reversename.from_address(address).to_text(), "PTR")
        if not names or not usable_name(names[0].rstrip(".").encode("latin-1", "replace")):
            raise NotFound("hard error", HARD)
        return names[0].rstrip(".")

    def _ask(self, name: str, kind: str) -> list[str]:
        try:
            answer = self._resolver.resolve(name, kind, lifetime=self._lifetime, search=False)
        except dns.resolver.NoAnswer:
            return []
        except (dns.resolver.NXDOMAIN, dns.exception.SyntaxError, UnicodeError):
            raise NotFound("hard error", HARD) from None
        except (dns.exception.DNSException, OSError):
            raise NotFound("soft error", SOFT) from None
        return [record.to_text() for record in answer]


def own_addresses() -> Iterator[str]:
    """The addresses of the interfaces that are up, the unspecified one first, IPv6 only where it is global."""
    yield "0.0.0.0"
    for packed in ipv4_addresses():
        yield format_address(packed)
    for packed, scope in ipv6_entries():
        if scope == GLOBAL_SCOPE:
            yield format_address(packed)


def say(line: str) -> None:
    """A line for the admin."""
    write_all(1, line.encode() + b"\n")


def local_names(names: Names, addresses: Sequence[str]) -> list[str]:
    """The name behind each address that has one, and a line about each."""
    found = []
    for address in addresses:
        try:
            found.append(names.name_of(address))
            say(f"{address}: adding {found[-1]} to control/locals...")
        except NotFound:
            say(f"{address}: has no name in DNS; left out.")
    return found


def configure(home: str, names: Names) -> None:
    """Ask, and only then write. Raises NotFound and OSError."""
    host = socket.gethostname().lower()
    say(f"This host calls itself {host}.")
    first = names.addresses(host)
    name = names.name_of(first[0]).lower()
    say(f"Its fully qualified name in DNS is {name}.")
    try:
        of_name = names.addresses(name)
    except NotFound:
        of_name = []
    os.stat(home + "/control/.")
    write_names(home, name.encode())
    say("Looking at the local IP addresses:")
    hosts = "".join(f"{line}\n" for line in local_names(names, sorted({*of_name, *own_addresses()}))).encode()
    put(home, "locals", hosts)
    say("If other domain names lead to this host, add them to control/locals; CNAME records need no line.")
    say("Copying control/locals to control/rcpthosts...")
    put(home, "rcpthosts", hosts)
    say("From now on SMTP clients may send only to those hosts.")
    say("A host added to locals or virtualdomains needs a line in rcpthosts too.")


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 when DNS knows no name for this host, 111 when it does not say, or a file cannot be written."""
    if len(argv) > 1:
        write_all(2, b"config: usage: config (config-fast takes a name)\n")
        return HARD
    home = home_of(environ)
    os.umask(0o022)
    try:
        configure(home, Names(read_servers(Control(home))))
    except NotFound as failure:
        say("Sorry: DNS does not lead from this host's name to an address and back to a name.")
        say("Nothing was written. Use config-fast with the name, or write control/me yourself.")
        write_all(2, f"config: {failure}\n".encode())
        return failure.code
    except ControlUnreadable as trouble:
        write_all(2, f"config: fatal: {trouble}\n".encode())
        return SOFT
    except OSError as error:
        write_all(2, f"config: fatal: {error.filename or 'interfaces'}: {error.strerror}\n".encode())
        return SOFT
    return 0
