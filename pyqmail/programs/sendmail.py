"""sendmail: the command line that other programs know, on top of qmail-inject and qmail-smtpd (sendmail(8))."""

import os

from pyqmail.control import home_of
from pyqmail.intake.resend import LIST_MARKS, complain
from pyqmail.options import UsageError, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyqmail.intake.dsn_options import DsnOptions

    Options = Sequence[tuple[bytes, bytes]]

# With the arguments that they have for sendmail 8, Postfix and Exim; what is not said below is ignored.
OPTIONS = b"A:B:C:D:E*F:GIJ*L:M:N:O:P:Q*R:T*UV:X:b:cd*e:f:h:imno:p:q*r:stvx"
USAGE = b"sendmail: usage: sendmail [ -t ] [ -fsender ] [ -Fname ] [ -bp ] [ -bs ] [ arg ... ]"
SENDER = (b"f", b"r")
DSN = (b"N", b"R", b"V")
PROGRAMS = {
    b"p": [b"bin/qmail-qread"],
    b"P": [b"bin/qmail-qstat"],
    b"i": [b"bin/newaliases"],
    b"q": [b"bin/qmail-q", b"retry", b"all"],
}
NO_DAEMON = b"no daemon is started here: qmail-start delivers, tcpserver takes mail from the network"
LOCAL_CLIENT = {
    b"RELAYCLIENT": b"",
    b"DATABYTES": b"0",
    b"PROTO": b"TCP",
    b"TCPLOCALIP": b"127.0.0.1",
    b"TCPLOCALHOST": b"localhost",
    b"TCPREMOTEIP": b"127.0.0.1",
    b"TCPREMOTEHOST": b"localhost",
    b"TCPREMOTEINFO": b"sendmail-bs",
}


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Become what the options, or the name we were called by, ask for."""
    home = home_of(environ)
    try:
        os.chdir(home)
    except OSError:
        complain(b"sendmail: fatal: unable to switch to qmail home directory")
        return 111
    try:
        options, arguments = parse_options(argv[1:], OPTIONS)
    except UsageError as error:
        complain(b"sendmail: " + error.text)
        complain(USAGE)
        return 100
    return _become(home, _mode(argv, options, arguments), options, arguments, environ)


def _mode(argv: "Sequence[bytes]", options: "Options", arguments: "Sequence[bytes]") -> bytes:
    """The letter of the last -b, of -q or -I, or of our name."""
    name = argv[0].rpartition(b"/")[2] if argv else b""
    if name in (b"newaliases", b"mailq"):
        return b"i" if name == b"newaliases" else b"p"
    letters = [letter for letter, _argument in options]
    modes = [argument[:1] if letter == b"b" else b"i" for letter, argument in options if letter in b"bI"]
    if not modes and b"q" in letters and b"t" not in letters and not arguments:
        return b"q"
    return modes[-1] if modes else b"m"


def _become(
    home: str, mode: bytes, options: "Options", arguments: "Sequence[bytes]", environ: "Mapping[bytes, bytes]"
) -> int:
    if mode == b"m":
        return _inject(home, options, arguments, environ)
    if mode == b"s":
        if b"PROTO" not in environ:
            environ = {**environ, **LOCAL_CLIENT}
        return _execute(home, [b"bin/qmail-smtpd"], environ)
    if mode == b"i" and os.path.realpath(b"bin/newaliases") == os.path.realpath(b"bin/sendmail"):
        complain(b"sendmail: fatal: please use fastforward/newaliases instead")  # it would run us again
        return 100
    if mode in PROGRAMS:
        return _execute(home, PROGRAMS[mode], environ)
    if mode in b"vt" and mode:
        from pyqmail.admin.address_verification import read_addresses, verify_addresses

        return verify_addresses(home, arguments if arguments or mode == b"v" else read_addresses(), environ)
    complain(b"sendmail: fatal: " + NO_DAEMON if mode in (b"d", b"D") else USAGE)
    return 100


def _inject(home: str, options: "Options", arguments: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Run qmail-inject; in this process when it is ours."""
    from pyqmail.launch import identify

    ours = identify(home + "/bin/qmail-inject") == "pyqmail.programs.qmail_inject"
    command = [b"bin/qmail-inject", b"-H" if any(letter == b"t" for letter, _ in options) else b"-a"]
    given = [argument for letter, argument in options if letter in SENDER]
    if given:
        command += [b"-f", given[-1] if ours else _sender(given[-1])]
    environ = inject_environment(options, environ)
    if ours:
        from pyqmail.intake.inject import inject

        try:
            dsn = _dsn_options(options)
        except UsageError as error:
            complain(b"sendmail: " + error.text)
            return 100
        return inject([*command, b"--", *arguments], environ, dsn)
    from pyqmail.formats.address_list import parse_addresses

    named = [address for argument in arguments for address in parse_addresses(argument)]  # another one reads no lists
    return _execute(home, [*command, b"--", *named], environ)


def _dsn_options(options: "Options") -> "DsnOptions | None":
    """What -N, -R and -V ask for, if they are there. Raises UsageError."""
    if not any(letter in DSN for letter, _ in options):
        return None
    from pyqmail.intake.dsn_options import DsnOptions

    return DsnOptions(options)


def _sender(argument: bytes) -> bytes:
    if LIST_MARKS.isdisjoint(argument):
        return argument
    from pyqmail.formats.address_list import parse_sender

    return parse_sender(argument)


def inject_environment(options: "Options", environ: "Mapping[bytes, bytes]") -> "dict[bytes, bytes]":
    """What -F and -f make of the environment: the From field follows the sender, and a name goes with it."""
    changed = dict(environ)
    for letter, argument in options:
        if letter == b"F":
            changed[b"MAILNAME"] = argument
    for letter, argument in options:
        sender = _sender(argument) if letter in SENDER else b""
        if sender:  # -f '' is the sender of bounces; their From is who runs us
            for name in (b"QMAILNAME", b"MAILNAME", b"NAME", b"QMAILHOST", b"MAILHOST"):
                changed.pop(name, None)
            user, at, host = sender.rpartition(b"@")
            changed[b"QMAILUSER"] = user if at else sender
            if at:
                changed[b"QMAILHOST"] = host
    return changed


def _execute(home: str, command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Replace this process; the current directory is the home."""
    import _signal  # the module signal takes as long as all else together

    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them, programs expect their defaults
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execve(os.fsencode(home) + b"/" + command[0], list(command), dict(environ))
    except OSError as error:
        reason = (error.strerror or "").encode()
        complain(b"sendmail: fatal: unable to run " + command[0].rpartition(b"/")[2] + b": " + reason)
        return 111
