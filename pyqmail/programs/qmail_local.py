"""qmail-local: deliver one message as its owner's .qmail file says (qmail-local(8), dot-qmail(5), qmail-command(8)).

Runs cold as bin/qmail-local and inside a warm worker of qmail-lspawn: it keeps nothing between calls, and programs get
an explicit environment. Every failure is temporary except a loop, an unknown mailbox, a program that says so, a
forward that the queue refuses for good, and wrong usage.

Deliveries run in the order of the lines and the forward last, so that a failure after it cannot repeat it.
"""

import os
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyqmail.envelope  # noqa: F401 - Submission needs it, and a warm worker imports nothing after its fork
from pyqmail.control import ControlUnreadable, home_of, read_patrn
from pyqmail.exits import CommandExit, LocalExit
from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.formats import dotqmail, mailline
from pyqmail.mailbox import maildir, mbox
from pyqmail.mailbox.message import Message
from pyqmail.options import UsageError, parse_options
from pyqmail.spool.submit import Submission
from pyqmail.system import files
from pyqmail.system.errors import reason, temporary

USAGE = b"qmail-local: usage: qmail-local [ -nN ] user homedir local dash ext domain sender defaultdelivery\n"
UNREADABLE = (PermissionError,)  # a .qmail that its owner closed to us is no reason to take the next one


class Usage(Exception):
    """The arguments are not those of qmail-local; the text is what to print before the usage line."""

    def __init__(self, text: bytes = b"") -> None:
        super().__init__(text)
        self.text = text


class Arguments:
    """The command line: who gets the message, from whom, and where it goes without a .qmail file."""

    def __init__(self, words: Sequence[bytes], *, describe: bool) -> None:
        if len(words) != 8 or not words[1].startswith(b"/"):
            raise Usage
        self.describe = describe  # -n: only say what would be done
        self.user, self.homedir, self.local, self.dash, self.ext = words[:5]
        self.domain, self.sender, self.default_delivery = words[5:]
        self.recipient = self.local + b"@" + self.domain


def parse_arguments(words: Sequence[bytes]) -> Arguments:
    """The arguments after the program name; of ``-n`` and ``-N`` the last one wins. Raises Usage."""
    try:
        options, rest = parse_options(words, b"nN")
    except UsageError as error:
        raise Usage(b"qmail-local: " + error.text + b"\n") from None
    describe = bool(options) and options[-1][0] == b"n"
    return Arguments(rest, describe=describe)


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


def check_home(describe: bool, forbidden: int) -> None:
    """Refuse the home (the current directory) while others could write it, or its owner is at work in it."""
    try:
        mode = os.stat(".").st_mode
    except OSError as error:
        raise TemporaryFailure(b"Unable to stat home directory: " + reason(error) + b". (#4.3.0)") from error
    if mode & forbidden:
        raise TemporaryFailure(b"Home directory is writable by others. (#4.7.0)")
    if mode & stat.S_ISVTX:
        if not describe:
            raise TemporaryFailure(b"Home directory is sticky: its owner is editing .qmail files. (#4.2.1)")
        say(2, b"Warning: home directory is sticky.\n")


def check_loop(message: Message, delivered_to: bytes) -> None:
    """Refuse a message that this very address has already had."""
    try:
        looping = mailline.header_has_line(message.chunks(), delivered_to)
    except OSError as error:
        raise TemporaryFailure(b"Unable to read message: " + reason(error) + b". (#4.3.0)") from error
    if looping:
        raise PermanentFailure(b"This message is looping: it already has my Delivered-To line. (#5.4.6)")


class Instructions:
    """The text that says what to do with the message, and what its file says besides."""

    def __init__(self, data: bytes, *, default: bytes | None, forward_only: bool) -> None:
        self.data = data
        self.default = default
        self.forward_only = forward_only


def read_instructions(arguments: Arguments, forbidden: int) -> Instructions:
    """The .qmail file for the address, or the default delivery where there is none or it has no bytes."""
    for name, default in dotqmail.candidates(arguments.dash, arguments.ext):
        fd = _open_candidate(name)
        if fd is None:
            continue
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                continue
            if mode & forbidden:
                raise TemporaryFailure(name + b" is writable by others. (#4.7.0)")
            data = files.read_all(fd)
        except OSError as error:
            raise TemporaryFailure(b"Unable to read " + name + b": " + reason(error) + b". (#4.3.0)") from error
        finally:
            os.close(fd)
        if data:
            return Instructions(data, default=default, forward_only=bool(mode & stat.S_IXUSR))
        return Instructions(arguments.default_delivery, default=default, forward_only=False)
    if arguments.dash:
        raise PermanentFailure(b"Sorry, no mailbox here by that name. (#5.1.1)")
    return Instructions(arguments.default_delivery, default=None, forward_only=False)


def _open_candidate(name: bytes) -> int | None:
    """The opened file; None when there is nothing by that name. An unreadable one defers the message."""
    try:
        return files.open_read(name)
    except OSError as error:
        if isinstance(error, UNREADABLE) or temporary(error):
            raise TemporaryFailure(b"Unable to open " + name + b": " + reason(error) + b". (#4.3.0)") from error
        return None


def new_sender(arguments: Arguments) -> bytes:
    """The envelope sender of forwards: the owner's address where an ``-owner`` file asks for it."""
    if arguments.sender in (b"", b"#@[]"):
        return arguments.sender
    owner, owner_default = dotqmail.owner_names(arguments.dash, arguments.ext)
    if not _exists(owner):
        return arguments.sender
    if _exists(owner_default):
        return arguments.local + b"-owner-@" + arguments.domain + b"-@[]"  # VERP: qmail-send fills it in
    return arguments.local + b"-owner@" + arguments.domain


def _exists(name: bytes) -> bool:
    try:
        os.stat(name)
    except OSError as error:
        if temporary(error):
            raise TemporaryFailure(b"Unable to stat " + name + b": " + reason(error) + b". (#4.3.0)") from error
        return False
    return True


class Delivery:
    """One message on its way through the lines: what was done and what is left to forward."""

    def __init__(self, message: Message, environ: Mapping[bytes, bytes], *, describe: bool, home: str) -> None:
        self.message = message
        self.environ = environ
        self.describe = describe
        self.home = home
        self.files = 0
        self.programs = 0
        self.forwards: list[bytes] = []
        self.number: int | None = None  # of the forwarded message

    def run(self, lines: Iterable[dotqmail.Line], *, forward_only: bool) -> None:
        """Act on ``lines`` in order, then forward. Raises MailFailure; later lines and all forwards are then off."""
        for kind, argument in lines:
            if kind == dotqmail.FORWARD_ONLY:
                forward_only = True
                continue
            if kind == dotqmail.BLANK_START:
                raise TemporaryFailure(b"The .qmail file begins with a blank line. (#4.2.1)")
            if forward_only and kind != dotqmail.FORWARD:
                raise TemporaryFailure(b"The .qmail file may only forward, but names a " + kind + b". (#4.7.0)")
            if not self._act(kind, argument):
                break
        if self.forwards and not self.describe:
            self._forward()

    def summary(self) -> bytes:
        """What the log shows after success."""
        text = b"did %d+%d+%d\n" % (self.files, len(self.forwards), self.programs)
        return text if self.number is None else text + b"qp %d\n" % self.number

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
        self.files += 1
        if self.describe:
            return True
        if kind == dotqmail.MAILDIR:
            directory = argument if argument.endswith(b"/") else argument + b"/"  # a NUL stood before the slash
            maildir.deliver(directory, self._maildir_pieces(), serial=self.files)
        else:
            mbox.deliver(argument, self._mbox_pieces())
        return True

    def _maildir_pieces(self) -> Iterator[bytes]:
        return _joined(self.environ[b"RPLINE"] + self.environ[b"DTLINE"], self.message.chunks())

    def _mbox_pieces(self) -> Iterator[bytes]:
        head = self.environ[b"UFLINE"] + self.environ[b"RPLINE"] + self.environ[b"DTLINE"]
        return _joined(head, mailline.mbox_body(self.message.chunks()))

    def _run_program(self, command: bytes) -> bool:
        """Run ``command`` with the message on descriptor 0; True to go on. Its own output is the whole report."""
        try:
            self.message.rewind()
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
        try:
            submission = Submission.open(self.home, self.environ, warm=is_warm(), direct=True)
        except OSError as error:
            raise TemporaryFailure(b"Unable to forward message: " + reason(error) + b". (#4.3.0)") from error
        submission.write(self.environ[b"DTLINE"])
        try:
            for chunk in self.message.chunks():
                submission.write(chunk)
        except OSError:
            submission.fail()
        answer = submission.close(self.environ[b"NEWSENDER"], self.forwards)
        letter, text = submission.answer_text(answer)
        if letter == b"D":
            raise PermanentFailure(b"Unable to forward message: " + text + b".")
        if letter != b"K":
            raise TemporaryFailure(b"Unable to forward message: " + text + b".")
        self.number = answer.number


def is_warm() -> bool:
    """Whether this process is one of many jobs: a worker of ours has its worker's module, a cold start never."""
    return "pyqmail.warm.worker" in sys.modules


def _joined(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """``head`` and ``chunks``, the first two in one piece, so that small mail is one write."""
    yield head + next(chunks, b"")
    yield from chunks


def say(fd: int, text: bytes) -> None:
    """Write to the report; nobody listening is no reason to deliver twice."""
    try:
        files.write_all(fd, text)
    except OSError:
        return


def deliver(arguments: Arguments, environ: Mapping[bytes, bytes]) -> bytes:
    """Deliver descriptor 0 as ``arguments`` and the .qmail file say; what to report. Raises MailFailure."""
    home = home_of(environ)
    try:
        forbidden = read_patrn(home)
    except ControlUnreadable as error:
        raise TemporaryFailure(os.fsencode(str(error)) + b". (#4.3.0)") from error
    try:
        os.chdir(arguments.homedir)
    except OSError as error:
        raise TemporaryFailure(
            b"Unable to switch to " + arguments.homedir + b": " + reason(error) + b". (#4.3.0)"
        ) from error
    check_home(arguments.describe, forbidden)
    message = Message(0)
    if not arguments.describe:
        check_loop(message, mailline.format_delivered_to(arguments.recipient))
    instructions = read_instructions(arguments, forbidden)
    variables = delivery_environment(environ, arguments, instructions.default, new_sender(arguments), int(time.time()))
    delivery = Delivery(message, variables, describe=arguments.describe, home=home)
    delivery.run(dotqmail.parse_lines(instructions.data), forward_only=instructions.forward_only)
    return delivery.summary()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Deliver one message; 0, 100 or 111 and nothing else."""
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too big is an error, so that an mbox is cut back
    try:
        say(1, deliver(parse_arguments(argv[1:]), environ))
        return LocalExit.DONE
    except Usage as usage:
        say(2, usage.text + USAGE)
        return LocalExit.PERMANENT
    except MailFailure as failure:
        if failure.text:
            say(2, failure.text + b"\n")
        return LocalExit.PERMANENT if isinstance(failure, PermanentFailure) else LocalExit.TEMPORARY
    except Exception as error:  # a bug or want of memory defers mail, and the log says what it was
        say(2, f"Internal trouble: {type(error).__name__}: {error}. (#4.3.0)\n".encode("utf-8", "replace"))
        return LocalExit.TEMPORARY
