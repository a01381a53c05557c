"""Three families of qmail with TLS and AUTH, as their documents have them installed: control files, rules, run files.

Ports, users and programs are theirs. A checker is a script that knows one user, since no script can be setuid; the
programs in bin/ say whose they are and do no more.
"""

from dataclasses import dataclass, field

USER, PASSWORD = "joe@example.test", "a password of theirs"
RULES = '127.0.0.1:allow,RELAYCLIENT=""\n:allow\n'
CHECKER = f"""#!/bin/sh
[ "$(tr '\\0' '|' <&3)" = '{USER}|{PASSWORD}|' ] && exec "$@"
exit 1
"""
PROGRAM = "#!/bin/sh\necho 220 theirs\n"


@dataclass(frozen=True)
class Family:
    """One tree: files by path, with owner and mode where they are no one's secret but theirs."""

    checker: str
    certificate: str  # its owner
    services: dict[str, tuple[int, str]]  # the run file's path to the port it is at, and its text
    before: str = ""  # commands that make what it needs
    controls: dict[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ("/etc/tcp.smtp",)
    auth_on_25: bool = False


FAMILIES = {
    "netqmail": Family(
        checker="/bin/checkpassword",
        certificate="root:qmail",
        controls={"concurrencyincoming": "20\n", "rsa2048.pem": "x\n", "dh2048.pem": "x\n"},
        auth_on_25=True,
        services={
            "supervise/qmail-smtpd": (25, """\
#!/bin/sh
QMAILDUID=`id -u qmaild`
NOFILESGID=`id -g qmaild`
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
LOCAL=`head -1 /var/qmail/control/me`
SMTPAUTH=""
export SMTPAUTH
exec /usr/local/bin/softlimit -m 30000000 \\
  /usr/local/bin/tcpserver -v -R -l "$LOCAL" -x /etc/tcp.smtp.cdb -c "$MAXSMTPD" \\
  -u "$QMAILDUID" -g "$NOFILESGID" 0 smtp \\
  /var/qmail/bin/qmail-smtpd /bin/checkpassword /bin/true 2>&1
"""),
        },
    ),
    "sagredo": Family(
        checker="/home/vpopmail/bin/vchkpw",
        certificate="vpopmail:vchkpw",
        before="groupadd -f vchkpw; id vpopmail >/dev/null 2>&1 || useradd -g vchkpw -d /home/vpopmail vpopmail\n"
        "mkdir -p /home/vpopmail/bin /home/vpopmail/etc\n",
        rules=("/home/vpopmail/etc/tcp.smtp", "/home/vpopmail/etc/tcp.submission"),
        controls={"concurrencyincoming": "200\n", "tlsserverciphers": "HIGH:!aNULL\n", "brtlimit": "2\n"},
        services={
            "supervise/qmail-smtpd": (25, """\
#!/bin/sh
QMAILDUID=`id -u vpopmail`
NOFILESGID=`id -g vpopmail`
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
export SMTPD_GREETDELAY=1
export DROP_PRE_GREET=1
export CHKUSER_START=ALWAYS
exec /usr/local/bin/softlimit -m 1073741824 \\
  /usr/local/bin/tcpserver -v -H -R -l 0 -x /home/vpopmail/etc/tcp.smtp.cdb -c "$MAXSMTPD" \\
  -u "$QMAILDUID" -g "$NOFILESGID" 0 25 /var/qmail/bin/qmail-smtpd 2>&1
"""),
            "supervise/qmail-submission": (587, """\
#!/bin/sh
QMAILDUID=`id -u vpopmail`
NOFILESGID=`id -g vpopmail`
export SMTPAUTH="!"
export FORCEAUTHMAILFROM=1
exec /usr/local/bin/softlimit -m 1073741824 \\
  /usr/local/bin/tcpserver -v -H -R -l 0 -x /home/vpopmail/etc/tcp.submission.cdb -c 50 \\
  -u "$QMAILDUID" -g "$NOFILESGID" 0 587 /var/qmail/bin/qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true 2>&1
"""),
            "supervise/qmail-smtpsd": (465, """\
#!/bin/sh
export SMTPAUTH="!" FORCETLS=0 DISABLETLS=1 CERTFILE=/var/qmail/control/servercert.pem
exec sslserver -e -v -H -R -l 0 -x /home/vpopmail/etc/tcp.submission.cdb -c 50 \\
  -u "$(id -u vpopmail)" -g "$(id -g vpopmail)" 0 465 \\
  /var/qmail/bin/qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true 2>&1
"""),
        },
    ),
    "sqmail": Family(
        checker="/var/qmail/bin/qmail-authuser",
        certificate="qmaild:root",
        rules=("/var/qmail/control/rules.smtpd",),
        auth_on_25=True,
        services={
            "service/qmail-smtpd": (25, """\
#!/bin/sh
export SMTPAUTH="" UCSPITLS=""
HOSTNAME=`hostname`
PATH=/var/qmail/bin:/usr/local/bin:$PATH
exec sslserver -seV -Rp -l $HOSTNAME -x /var/qmail/control/rules.smtpd.cdb \\
  -u "$(id -u qmaild)" -g "$(id -g qmaild)" 0 25 qmail-smtpd qmail-authuser true 2>&1
"""),
            "service/qmail-smtpsub": (587, """\
#!/bin/sh
export SMTPAUTH="!" UCSPITLS="!"
PATH=/var/qmail/bin:/usr/local/bin:$PATH
exec sslserver -seV -Rp -l 0 -u "$(id -u qmaild)" -g "$(id -g qmaild)" 0 587 qmail-smtpd qmail-authuser true 2>&1
"""),
            "service/qmail-smtps": (465, """\
#!/bin/sh
export SMTPAUTH='!'
PATH=/var/qmail/bin:/usr/local/bin:$PATH
exec sslserver -eV -Rp -l 0 -u "$(id -u qmaild)" -g "$(id -g qmaild)" 0 465 qmail-smtpd qmail-authuser true 2>&1
"""),
        },
    ),
}  # fmt: skip
