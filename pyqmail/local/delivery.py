"""One message on its way through the lines of a .qmail file (qmail-local(8), qmail-command(8)).

Deliveries run in the order of the lines and the forward last, so that a failure after it cannot repeat it. Every
failure is temporary except a loop, an unknown mailbox, a program that says so, and a forward that the queue refuses
for good.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping

# Injection needs these, and a warm worker imports nothing after its fork.
import pyqmail.envelope  # noqa: F401
import pyqmail.intake.child  # noqa: F401
import pyqmail.intake.pipes  # noqa: F401
from pyqmail.control import Control, ControlUnreadable, home_of, read_patrn
from pyqmail.exits import CommandExit
from pyqmail.failure import PermanentFailure, TemporaryFailure
from pyqmail.formats import dotqmail, mailline
from pyqmail.formats.report import EXPANDED, FORWARDED
from pyqmail.intake.client import Injection
from pyqmail.intake.resend import forwarding, rewritten, wishes_in
from pyqmail.local.filing import store
from pyqmail.local.instructions import Arguments, check_home, new_sender, read_instructions
from pyqmail.local.report import say
from pyqmail.mailbox.message import Message
from pyqmail.mailbox.quota import Limit, read_limit
from pyqmail.system.errors import reason

BeforeChild = Callable[[], None]


def inherit() -> None:
    """Before a child that takes descriptors 0 to 2 as they are: nothing is to be done."""


def delivery_environment(
    inherited: Mapping[bytes, bytes], arguments: Arguments, default: bytes | None, new_sender: bytes, seconds: int
) -> dict[bytes, bytes]:
    """What programs and the forward see: ``inherited`` and the variables of qmail-command(8), none quoted."""
    extensions = [arguments.ext]
    hosts = [arguments.domain]
    for _ in range(3):
        extensions.append(extensions[-1].partition(b"-")[2])
        before, dot, _after = hosts[-1].rpartition(b".")
        hosts.append(before if dot else hosts[-1])  # without a further dot the value repeats
    environ = {
        **inherited,
        b"HOST": arguments.domain,
        b"HOME": arguments.homedir,
        b"USER": arguments.user,
        b"LOCAL": arguments.local,
        b"RECIPIENT": arguments.recipient,
        b"DTLINE": mailline.format_delivered_to(arguments.recipient),
        b"SENDER": arguments.sender,
        b"RPLINE": mailline.format_return_path(arguments.sender),
        b"UFLINE": mailline.format_from_line(arguments.sender, seconds),
        b"NEWSENDER": new_sender,
    }
    for number, suffix in enumerate((b"", b"2", b"3", b"4")):
        environ[b"EXT" + suffix] = extensions[number]
        environ[b"HOST" + suffix] = hosts[number]
    if default is not None:
        environ[b"DEFAULT"] = default
    return environ


def check_loop(message: Message, delivered_to: bytes) -> None:
    """Refuse a message that this very address has already had."""
    try:
        looping = mailline.header_has_line(message.chunks(), delivered_to)
    except OSError as error:
        raise TemporaryFailure(b"Unable to read message: " + reason(error) + b". (#4.3.0)") from error
    if looping:
        raise PermanentFailure(b"This message is looping: it already has my Delivered-To line. (#5.4.6)")


class Delivery:
    """One message on its way through the lines: what was done and what is left to forward."""

    def __init__(
        self,
        message: Message,
        environ: Mapping[bytes, bytes],
        *,
        describe: bool,
        home: str,
        quota: Limit | None = None,
        before_child: BeforeChild = inherit,
    ) -> None:
        self.before_child = before_child
        self.quota = quota  # of Maildirs without one of their own; None where nothing is counted
        self.message = message
        self.environ = environ
        self.describe = describe
        self.home = home
        self.files = 0
        self.programs = 0
        self.discarded = False
        self.forwards: list[bytes] = []
        self.number: int | None = None  # of the forwarded message
        self.told = b""  # to whom its success is left

    def run(self, lines: Iterable[dotqmail.Line], *, forward_only: bool) -> None:
        """Act on ``lines`` in order, then forward. Raises MailFailure; later lines and all forwards are then off."""
        for kind, argument in lines:
            if kind == dotqmail.FORWARD_ONLY:
                forward_only = True
                continue
            if kind == dotqmail.BLANK_START:
                raise TemporaryFailure(b"The .qmail file begins with a blank line. (#4.2.1)")
            if kind == dotqmail.UNREADABLE:
                raise TemporaryFailure(b"The .qmail file has a line that says nothing here: " + argument + b" (#4.2.1)")
            if forward_only and kind not in (dotqmail.FORWARD, dotqmail.DISCARD):
                raise TemporaryFailure(b"The .qmail file may only forward, but names a " + kind + b". (#4.7.0)")
            if not self._act(kind, argument):
                break
        if self.forwards and not self.describe:
            self._forward()

    def summary(self) -> bytes:
        """What the log shows after success."""
        text = b"did %d+%d+%d\n" % (self.files, len(self.forwards), self.programs)
        if self.number is not None:
            text += b"qp %d\n" % self.number + self.told
        return text + b"thrown away: /dev/null\n" if self.discarded else text

    def _act(self, kind: bytes, argument: bytes) -> bool:
        """Deliver as one line says; False when its program wants the rest left out."""
        if self.describe:
            say(1, kind + b" " + argument + b"\n")
        argument = argument.partition(b"\0")[0]
        if kind == dotqmail.FORWARD:
            self.forwards.append(argument)
            return True
        if kind == dotqmail.PROGRAM:
            self.programs += 1
            return self.describe or self._run_program(argument)
        if kind == dotqmail.DISCARD:
            self.discarded = True
            return True
        self.files += 1
        if self.describe:
            return True
        if kind == dotqmail.MAILDIR and not argument.endswith(b"/"):
            argument += b"/"  # a NUL stood before the slash
        store(argument, self.environ, self.message, self.files, self.quota)
        return True

    def _run_program(self, command: bytes) -> bool:
        """Run ``command`` with the message on descriptor 0; True to go on. Its own output is the whole report."""
        try:
            self.message.rewind()
            self.before_child()
            child = os.posix_spawn(
                b"/bin/sh",
                [b"/bin/sh", b"-c", command],
                self.environ,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores both
            )
            status = os.waitpid(child, 0)[1]
        except OSError as error:
            raise TemporaryFailure(b"Unable to run /bin/sh: " + reason(error) + b". (#4.3.0)") from error
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            raise TemporaryFailure(b"The program was killed by signal %d. (#4.3.0)" % -code)
        if code in (CommandExit.DONE, CommandExit.DONE_STOP):
            return code == CommandExit.DONE
        if code in CommandExit.PERMANENT:
            raise PermanentFailure(b"")
        raise TemporaryFailure(b"")

    def _forward(self) -> None:
        sender = rewritten(self.environ, self.environ[b"NEWSENDER"])
        if sender is None:
            raise TemporaryFailure(b"Unable to forward message: its sender cannot be rewritten now. (#4.3.0)")
        try:
            environ = forwarding(self.environ, sender, self.forwards, alone=self._alone())
            injection = Injection.open(self.home, environ, warm=is_warm(), direct=True, before_child=self.before_child)
        except OSError as error:
            raise TemporaryFailure(b"Unable to forward message: " + reason(error) + b". (#4.3.0)") from error
        injection.write(self.environ[b"DTLINE"])
        try:
            for chunk in self.message.chunks():
                injection.write(chunk)
        except OSError:
            injection.fail()
        answer = injection.close(sender, self.forwards)
        letter, text = answer.letter_text()
        if letter == b"D":
            raise PermanentFailure(b"Unable to forward message: " + text + b".")
        if letter != b"K":
            raise TemporaryFailure(b"Unable to forward message: " + text + b".")
        self.number = answer.number
        if wishes_in(self.environ, sender):
            self.told = FORWARDED if self._alone() else EXPANDED

    def _alone(self) -> bool:
        """Whether a forward to one address is all that becomes of the message."""
        return len(self.forwards) == 1 and not self.files and not self.programs


def is_warm() -> bool:
    """Whether this process is one of many jobs: a worker of ours has its worker's module, a cold start never."""
    return "pyqmail.warm.worker" in sys.modules


def deliver(
    arguments: Arguments, environ: Mapping[bytes, bytes], before_child: BeforeChild = inherit, size: int | None = None
) -> bytes:
    """Deliver descriptor 0 as ``arguments`` and the .qmail file say; what to report. Raises MailFailure.

    ``before_child`` is called before there is a child, which inherits descriptors 0 to 2; it may raise OSError.
    ``size`` is that of the message in bytes, where it is known.
    """
    home = home_of(environ)
    try:
        control = Control(home)
        forbidden, quota = read_patrn(control), read_limit(control)
    except ControlUnreadable as error:
        raise TemporaryFailure(os.fsencode(str(error)) + b". (#4.3.0)") from error
    try:
        os.chdir(arguments.homedir)
    except OSError as error:
        raise TemporaryFailure(
            b"Unable to switch to " + arguments.homedir + b": " + reason(error) + b". (#4.3.0)"
        ) from error
    check_home(arguments.describe, forbidden)
    message = Message(0, size)
    if not arguments.describe:
        check_loop(message, mailline.format_delivered_to(arguments.recipient))
    instructions = read_instructions(arguments, forbidden)
    sender = new_sender(arguments) if dotqmail.names_sender(instructions.data) else arguments.sender
    if sender == arguments.sender:  # programs that forward find it too; what cannot be told now waits in _forward
        sender = rewritten(environ, sender) or sender
    variables = delivery_environment(environ, arguments, instructions.default, sender, int(time.time()))
    delivery = Delivery(
        message, variables, describe=arguments.describe, home=home, quota=quota, before_child=before_child
    )
    delivery.run(dotqmail.parse_lines(instructions.data), forward_only=instructions.forward_only)
    return delivery.summary()
