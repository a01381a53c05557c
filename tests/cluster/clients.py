"""Clients that send through HAProxy, as many messages as they can, each until it is accepted."""

import os
import smtplib
import threading
import time

from tests.cluster.audit import Sent
from tests.waiting import wait_for

DEADLINE_S = 60.0
ACCEPTED_S = 120.0
PACE_S, REST_S = 0.2, 2.0  # between two messages of a client, while somebody waits for them and else
PAUSE_S = 0.2  # before a message that was not accepted is offered again


class Clients:
    """One thread for each of ``addresses``, which it comes from."""

    def __init__(self, server: str, addresses: tuple[str, ...], users: tuple[str, ...]) -> None:
        self._server = server
        self._users = users
        self._stopping = threading.Event()
        self._wanted = 0
        self.sent: list[Sent] = []
        self.refused: list[str] = []  # for good: none may be
        self.last = ""  # why a message was not accepted, for now or for good
        self._threads = [threading.Thread(target=self._work, args=(address,)) for address in addresses]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no other message; the last one of each client may remain without an answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def accepted(self) -> int:
        """How many messages were."""
        return sum(message.accepted for message in list(self.sent))

    def wait_for_more(self, count: int, what: str) -> None:
        """Return once ``count`` more are accepted than are now."""
        self._wanted = wanted = self.accepted + count
        try:
            wait_for(lambda: self.accepted >= wanted, f"{count} accepted messages {what}", ACCEPTED_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.last}") from None

    def _work(self, address: str) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            some = tuple(self._users[(number + each) % len(self._users)] for each in range(1 + (number % 3 == 0)))
            message = Sent(f"{address} {number} {os.urandom(16).hex()}\r\n".encode() * (1 + number % 40), some)
            self.sent.append(message)
            self._offer(address, message)
            self._stopping.wait(PACE_S if self.accepted < self._wanted else REST_S)

    def _offer(self, address: str, message: Sent) -> None:
        """Until it is accepted, or all is over."""
        while not message.accepted and not self._stopping.is_set():
            try:
                message.accepted = self._try(address, message)
            except smtplib.SMTPResponseException as error:
                self.last = f"{error.smtp_code} {error.smtp_error!r}"
                if error.smtp_code >= 500:
                    self.refused.append(self.last)
            except (OSError, smtplib.SMTPException) as error:  # not greeted, or cut off
                self.last = str(error)
            if not message.accepted:
                time.sleep(PAUSE_S)

    def _try(self, address: str, message: Sent) -> bool:
        with smtplib.SMTP(self._server, 25, "client.test", DEADLINE_S, source_address=(address, 0)) as session:
            session.ehlo_or_helo_if_needed()
            for code, text in (
                session.mail(f"sender@{address}.client.test"),
                *(session.rcpt(user) for user in message.recipients),
            ):
                if code != 250:
                    raise smtplib.SMTPResponseException(code, text)
            try:
                code, text = session.data(b"Subject: audit\r\n\r\n" + message.body)
            except (smtplib.SMTPServerDisconnected, OSError):
                message.unanswered += 1
                raise
            if code != 250:
                raise smtplib.SMTPResponseException(code, text)
        return True
