"""qmail-authd at work: a question a connection, each answered in a forked process, with a wait for those who guess.

This process reads 1 KiB at most of whom it trusts to ask, and compares a password with nothing but what was right a
moment ago (login/memory). A question that would be wrong is answered at the same time after it was taken up, whatever
was wrong. Users who have been right from where they are now come before all others: who guesses does not keep them out.
"""

import socket
import time
from collections.abc import Callable

from pyqmail.login import checking
from pyqmail.login.answer import Answer
from pyqmail.login.check_workers import CheckWorkers
from pyqmail.login.failures import Failures, network_of
from pyqmail.login.memory import Memory
from pyqmail.protocol.logins import QUESTION_MAX, parse_question
from pyqmail.protocol.sasl import Credentials
from pyqmail.system import files
from pyqmail.system.loop import Loop
from pyqmail.system.peer import peer_credentials
from pyqmail.system.stamp import Seen

QUESTION_S = 10.0  # for a client to ask
FAILURE_S = 3.5  # from a question to the answer no; by then the random delay of PAM is over, too
CONNECTIONS_MAX = 512
CHECKS_MAX = 8  # at once
ONE_MAX = 2  # of them for one user, and for one network
FULL_S = 0.5  # without a descriptor to spare
COUNTS = "/users/authd.failures"  # below the home
COUNTS_MAX = 32 << 20  # bytes


class Question:
    """One client, who waits."""

    def __init__(self, sock: socket.socket, credentials: Credentials, ip: bytes) -> None:
        self.sock = sock
        self.credentials = credentials
        self.ip = ip
        self.network = network_of(ip)
        self.user = checking.known_as(credentials).lower()
        self.began = 0.0
        self.seen: Seen | None = None  # what decides, where a yes may be remembered


class Service:
    """One loop: clients, checks, and their ends."""

    def __init__(
        self, loop: Loop, listener: socket.socket, home: str, trusted: Callable[[int], bool], *, single_user: bool
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._home = home
        self._trusted = trusted  # the uid of who asks
        self._workers = CheckWorkers(loop, home, single_user=single_user)
        self._memory = Memory(home, single_user=single_user)
        self._open = 0
        self._waiting: list[Question] = []
        self._running: list[Question] = []
        self._refused: list[Question] = []  # wrong, and not yet told so
        self._failures = Failures()
        loop.add_reader(listener.fileno(), self._accept)
        self._restore()

    def _restore(self) -> None:
        """Go on with the counts of the process before, if it ended as it should, and forget the file."""
        try:
            data = files.read_file(self._home + COUNTS, COUNTS_MAX)
            files.unlink_if_present(self._home + COUNTS)
        except OSError:
            return
        self._failures.restore(data, time.monotonic())

    def save(self) -> None:
        """Leave the counts to the next process; users/ is root's alone, as the file is."""
        data = self._failures.saved()
        try:
            if data:
                files.replace_file(self._home + COUNTS + ".new", self._home + COUNTS, data, mode=0o600)
        except OSError:
            return  # they begin anew

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # they wait where they are, and nobody turns round for them
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(FULL_S, lambda: self._loop.add_reader(self._listener.fileno(), self._accept))
            return
        if not self._trusted(peer_credentials(sock)[1]) or self._open >= CONNECTIONS_MAX:
            sock.close()
            return
        self._open += 1
        sock.setblocking(False)
        timer = self._loop.call_later(QUESTION_S, lambda: self._close(sock))

        def read() -> None:
            timer.cancel()
            self._loop.remove_reader(sock.fileno())
            self._ask(sock)

        self._loop.add_reader(sock.fileno(), read)

    def _ask(self, sock: socket.socket) -> None:
        try:
            found = parse_question(sock.recv(QUESTION_MAX + 1))
        except OSError:
            found = None
        if found is None:
            self._close(sock)
            return
        question = Question(sock, *found)
        wait_s = self._failures.wait_s(question.network, question.user, time.monotonic())
        self._loop.call_later(wait_s, lambda: self._take_up(question))

    def _take_up(self, question: Question) -> None:
        if self._memory.knows(question.credentials):
            self._judge(question, Answer.YES)
            return
        self._waiting.append(question)
        self._go_on()

    def _go_on(self) -> None:
        """Begin as many checks as there is room for: first those of who was right before, then the oldest question."""
        for question in sorted(self._waiting, key=lambda one: not self._was_right(one)):
            if len(self._running) >= CHECKS_MAX:
                return
            if not self._has_room(question):
                continue
            self._waiting.remove(question)
            if gone(question.sock):
                self._close(question.sock)
            else:
                self._begin(question)

    def _has_room(self, question: Question) -> bool:
        """Whether neither its user nor its network has enough under way.

        Who guesses has it until he hears that he was wrong: those who guess at once are as slow as those who guess one
        after the other. Wrong passwords of others in a network do not hold up who was right from there.
        """
        users = sum(other.user == question.user for other in self._running)
        networks = sum(other.network == question.network for other in self._running)
        right = self._was_right(question)
        networks += sum(
            other.network == question.network and (not right or other.user == question.user) for other in self._refused
        )
        return users < ONE_MAX and networks < ONE_MAX

    def _was_right(self, question: Question) -> bool:
        return self._failures.was_right(question.network, question.user)

    def _begin(self, question: Question) -> None:
        question.began = time.monotonic()
        question.seen = self._memory.look(question.credentials)

        def ended(answer: Answer) -> None:
            self._running.remove(question)
            if answer is Answer.YES and question.seen is not None:
                self._memory.remember(question.credentials, question.seen)
            self._judge(question, answer)
            self._go_on()

        try:
            self._workers.ask(question.credentials, question.ip, ended)
        except OSError:
            self._answer(question, Answer.LATER)
            return
        self._running.append(question)

    def _judge(self, question: Question, answer: Answer) -> None:
        now = time.monotonic()
        if answer is Answer.NO:
            self._failures.failed(question.network, question.user, now)
            left_s = max(0.0, question.began + FAILURE_S - now)
            self._refused.append(question)
            self._loop.call_later(left_s, lambda: self._refuse(question))
            return
        if answer is Answer.YES:
            self._failures.succeeded(question.network, question.user)
        self._answer(question, answer)

    def _refuse(self, question: Question) -> None:
        self._refused.remove(question)
        self._answer(question, Answer.NO)
        self._go_on()

    def _answer(self, question: Question, answer: Answer) -> None:
        name = checking.known_as(question.credentials) if answer is Answer.YES else b""
        try:
            question.sock.send(answer.value + name, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the client has gone
        self._close(question.sock)

    def _close(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        sock.close()
        self._open -= 1


def gone(sock: socket.socket) -> bool:
    """Whether who asked has hung up."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
