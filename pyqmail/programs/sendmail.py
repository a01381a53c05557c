"""sendmail: the command line that other programs know, on top of qmail-inject and qmail-smtpd (sendmail(8))."""

import os

from pyqmail.control import home_of
from pyqmail.intake.resend import complain
from pyqmail.options import UsageError, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTIONS = b"vimte:f:p:o:B:F:E*J*xb:"
USAGE = b"sendmail: usage: sendmail [ -t ] [ -fsender ] [ -Fname ] [ -bp ] [ -bs ] [ arg ... ]"
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
    modes = [argument[:1] for letter, argument in options if letter == b"b"]
    if any(mode not in (b"m", b"p", b"s") for mode in modes):
        complain(USAGE)
        return 100
    return _become(home, argv, options, arguments, environ, modes)


def _become(
    home: str,
    argv: "Sequence[bytes]",
    options: "Sequence[tuple[bytes, bytes]]",
    arguments: "Sequence[bytes]",
    environ: "Mapping[bytes, bytes]",
    modes: "Sequence[bytes]",
) -> int:
    name = argv[0].rpartition(b"/")[2] if argv else b""
    if name == b"newaliases":
        complain(b"sendmail: fatal: please use fastforward/newaliases instead")
        return 100
    mode = modes[-1] if modes else b"m"
    if name == b"mailq" or mode == b"p":
        return _execute(home, [b"bin/qmail-qread"], environ)
    if mode == b"s":
        if b"PROTO" not in environ:
            environ = {**environ, **LOCAL_CLIENT}
        return _execute(home, [b"bin/qmail-smtpd"], environ)
    return _inject(home, options, arguments, environ)


def _inject(
    home: str,
    options: "Sequence[tuple[bytes, bytes]]",
    arguments: "Sequence[bytes]",
    environ: "Mapping[bytes, bytes]",
) -> int:
    """Run qmail-inject; in this process when it is ours."""
    command = [b"bin/qmail-inject", b"-H" if any(letter == b"t" for letter, _ in options) else b"-a"]
    given = [argument for letter, argument in options if letter == b"f"]
    if given:
        command += [b"-f", given[-1]]
    command += [b"--", *arguments]
    environ = inject_environment(options, environ)
    from pyqmail.launch import identify

    if identify(home + "/bin/qmail-inject") == "pyqmail.programs.qmail_inject":
        from pyqmail.programs import qmail_inject

        return qmail_inject.main(command, environ)
    return _execute(home, command, environ)


def inject_environment(
    options: "Sequence[tuple[bytes, bytes]]", environ: "Mapping[bytes, bytes]"
) -> "dict[bytes, bytes]":
    """What -F and -f make of the environment: the From field follows the sender, and a name goes with it."""
    changed = dict(environ)
    for letter, argument in options:
        if letter == b"F":
            changed[b"MAILNAME"] = argument
    for letter, argument in options:
        if letter == b"f":
            for name in (b"QMAILNAME", b"MAILNAME", b"NAME", b"QMAILHOST", b"MAILHOST"):
                changed.pop(name, None)
            user, at, host = argument.rpartition(b"@")
            changed[b"QMAILUSER"] = user if at else argument
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
