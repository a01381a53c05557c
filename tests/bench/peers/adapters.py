"""One adapter per mail server. Each assumes an installed server; none builds one.

An adapter says how to configure, start, stop and empty its server, and knows its
SMTP port and its sendmail command. All listen on loopback only.
"""

import grp
import os
import pwd
import shlex
import shutil
import subprocess
import textwrap

from tests.bench.peers.common import DEAD, DEAD_PORT, DOMAIN, HOST, SINK_PORT, STATE, BenchError, Group, find, wait_port


class Server:
    name = ""
    port = 0

    def __init__(self):
        self.group = Group(self.name)
        self.state = os.path.join(STATE, self.name)
        os.makedirs(self.state, exist_ok=True)
        os.chmod(STATE, 0o755)

    def configure(self, remote=20):
        """Write configuration for the given remote concurrency."""

    def launch(self):
        """Start the processes in self.group."""

    def quit(self):
        """Stop politely, if there is a way besides SIGTERM."""

    def purge(self):
        """Empty the queue; the server is stopped."""

    def sendmail(self, rcpt):
        raise NotImplementedError

    def env(self):
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def start(self):
        self.launch()
        wait_port(self.port)

    def stop(self):
        self.quit()
        self.group.end()

    def write(self, path, text):
        with open(path, "w") as f:
            f.write(textwrap.dedent(text).lstrip("\n"))


class QmailLike(Server):
    """A tree with the qmail layout: control/, queue/, bin/sendmail, started by an rc command."""

    home = rc = smtpd = ""

    def configure(self, remote=20):
        control = os.path.join(self.home, "control")
        for name, text in {
            "me": "mx." + DOMAIN,
            "locals": DOMAIN,
            "rcpthosts": f"{DOMAIN}\n{DEAD}",
            "defaultdomain": DOMAIN,
            "defaulthost": DOMAIN,
            "plusdomain": DOMAIN,
            "concurrencyremote": str(remote),
            "smtproutes": f"{DEAD}:{HOST}:{DEAD_PORT}\n:{HOST}:{SINK_PORT}",
        }.items():
            path = os.path.join(control, name)
            self.write(path, text + "\n")
            os.chmod(path, 0o644)

    def launch(self):
        env = {
            "PATH": f"{self.home}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "QMAIL": self.home,
            "BENCH_PORT": str(self.port),
            "BENCH_LOG": self.state,
        }
        with open(os.path.join(self.state, "stderr"), "ab") as err:
            self.group.spawn(shlex.split(self.rc), env=env, cwd="/", stdout=err, stderr=err)
            self.group.spawn(shlex.split(self.smtpd), env=env | {"RELAYCLIENT": ""}, cwd="/", stdout=err, stderr=err)

    def sendmail(self, rcpt):
        return [f"{self.home}/bin/sendmail", rcpt]

    def purge(self):
        for sub in ("mess", "info", "local", "remote", "todo", "intd", "bounce", "pid"):
            for folder, _, names in os.walk(os.path.join(self.home, "queue", sub)):
                for name in names:
                    os.unlink(os.path.join(folder, name))


def tcpserver(port, program):
    user, group = pwd.getpwnam("qmaild").pw_uid, grp.getgrnam("nofiles").gr_gid
    return f"tcpserver -H -R -l {DOMAIN} -c 200 -b 128 -u {user} -g {group} {HOST} {port} {program}"


class Notqmail(QmailLike):
    name = "notqmail"
    port = int(os.environ.get("BENCH_PORT_NOTQMAIL", "2525"))

    def __init__(self):
        super().__init__()
        self.home = os.environ.get("NOTQMAIL_HOME", "/var/notqmail")
        logs = os.path.join(self.state, "log")
        os.makedirs(logs, exist_ok=True)
        shutil.chown(logs, "qmaill")
        self.rc = f"{self.home}/bin/qmail-start ./Maildir/ {find('multilog')} t s16777215 n5 {logs}"
        self.smtpd = tcpserver(self.port, f"{self.home}/bin/qmail-smtpd")


class Pyqmail(QmailLike):
    """Placeholder: the commands come from the environment.

    QMAIL         the tree (default /var/qmail)
    PYQMAIL_RC    stays in the foreground and runs the delivery side (default $QMAIL/rc)
    PYQMAIL_SMTPD stays in the foreground and listens on loopback port $BENCH_PORT
                  (default: tcpserver with $QMAIL/bin/qmail-smtpd)
    """

    name = "pyqmail"
    port = int(os.environ.get("BENCH_PORT_PYQMAIL", "2529"))

    def __init__(self):
        super().__init__()
        self.home = os.environ.get("QMAIL", "/var/qmail")
        self.rc = os.environ.get("PYQMAIL_RC", f"{self.home}/rc")
        self.smtpd = os.environ.get("PYQMAIL_SMTPD") or tcpserver(self.port, f"{self.home}/bin/qmail-smtpd")


class Postfix(Server):
    name = "postfix"
    port = int(os.environ.get("BENCH_PORT_POSTFIX", "2526"))
    services = """
        {host}:{port} inet n - n - - smtpd
        pickup unix n - n 60 1 pickup
        cleanup unix n - n - 0 cleanup
        qmgr unix n - n 300 1 qmgr
        rewrite unix - - n - - trivial-rewrite
        bounce unix - - n - 0 bounce
        defer unix - - n - 0 bounce
        trace unix - - n - 0 bounce
        verify unix - - n - 1 verify
        flush unix n - n 1000? 0 flush
        proxymap unix - - n - - proxymap
        proxywrite unix - - n - 1 proxymap
        smtp unix - - n - - smtp
        relay unix - - n - - smtp
        showq unix n - n - - showq
        error unix - - n - - error
        retry unix - - n - - error
        discard unix - - n - - discard
        local unix - n n - - local
        virtual unix - n n - - virtual
        lmtp unix - - n - - lmtp
        anvil unix - - n - 1 anvil
        scache unix - - n - 1 scache
        postlog unix-dgram n - n - 1 postlogd
        """

    def __init__(self):
        super().__init__()
        self.conf = os.path.join(self.state, "etc")
        self.queue = os.path.join(self.state, "spool")
        self.data = os.path.join(self.state, "data")
        for path in (self.conf, self.queue, self.data):
            os.makedirs(path, exist_ok=True)
        shutil.chown(self.data, "postfix", "postfix")

    def configure(self, remote=20):
        self.write(
            os.path.join(self.conf, "main.cf"),
            f"""
            compatibility_level = 3.6
            queue_directory = {self.queue}
            data_directory = {self.data}
            command_directory = /usr/sbin
            daemon_directory = /usr/lib/postfix/sbin
            mail_owner = postfix
            setgid_group = postdrop
            maillog_file = {self.state}/log
            maillog_file_prefixes = {self.state}
            myhostname = mx.{DOMAIN}
            mydestination = {DOMAIN}
            myorigin = {DOMAIN}
            mynetworks = 127.0.0.0/8
            inet_interfaces = {HOST}
            inet_protocols = ipv4
            alias_maps =
            alias_database =
            home_mailbox = Maildir/
            recipient_delimiter = -
            relayhost = [{HOST}]:{SINK_PORT}
            transport_maps = inline:{{ {{ {DEAD} = smtp:[{HOST}]:{DEAD_PORT} }} }}
            smtp_destination_concurrency_limit = {remote}
            default_process_limit = {max(100, remote)}
            """,
        )
        self.write(os.path.join(self.conf, "master.cf"), self.services.format(host=HOST, port=self.port))
        # postdrop and postqueue accept another configuration only when the main one names it
        known = subprocess.run(["postconf", "-h", "alternate_config_directories"], capture_output=True, text=True)
        if self.conf not in known.stdout:
            both = (known.stdout.strip() + " " + self.conf).strip()
            subprocess.run(["postconf", "-e", f"alternate_config_directories={both}"], check=True)

    def launch(self):
        self.group.run(["postfix", "-c", self.conf, "start"])

    def quit(self):
        subprocess.run(["postfix", "-c", self.conf, "stop"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def purge(self):
        subprocess.run(
            ["postsuper", "-c", self.conf, "-d", "ALL"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def sendmail(self, rcpt):
        return ["/usr/sbin/sendmail", "-C", self.conf, rcpt]


class Opensmtpd(Server):
    """Paths are compiled in (spool, control socket), so OPENSMTPD_ROOT only finds the binaries."""

    name = "opensmtpd"
    port = int(os.environ.get("BENCH_PORT_OPENSMTPD", "2527"))

    def __init__(self):
        super().__init__()
        self.root = os.environ.get("OPENSMTPD_ROOT", "")
        self.conf = os.path.join(self.state, "smtpd.conf")

    def configure(self, remote=20):
        self.write(
            self.conf,
            f"""
            smtp sub-addr-delim '-'
            smtp limit max-mails 100000
            smtp limit max-rcpt 10000
            mta limit session-mail-max 100000
            mta limit reconn-delay-route 0
            mta limit max-conn-per-host {remote}
            mta limit max-conn-per-route {remote}
            mta limit max-conn-per-source {max(remote, 100)}
            mta limit max-conn-per-connector {max(remote, 20)}
            mta limit max-conn-per-relay {max(remote, 100)}
            mta limit max-conn-per-domain {max(remote, 100)}
            listen on {HOST} port {self.port} hostname mx.{DOMAIN}
            action "local" maildir
            action "dead" relay host smtp+notls://{HOST}:{DEAD_PORT}
            action "relay" relay host smtp+notls://{HOST}:{SINK_PORT}
            match from any for domain "{DOMAIN}" action "local"
            match from any for domain "{DEAD}" action "dead"
            match from any for any action "relay"
            """,
        )

    def launch(self):
        # its own resolver ignores /etc/hosts and waits for DNS, so it gets a private resolv.conf
        resolv = os.path.join(self.state, "resolv.conf")
        self.write(resolv, "lookup file\n")
        script = (
            f'mount --bind {resolv} "$(realpath /etc/resolv.conf)" && exec {self.root}/usr/sbin/smtpd -d -f {self.conf}'
        )
        with open(os.path.join(self.state, "log"), "wb") as out:
            self.group.spawn(["unshare", "-m", "sh", "-c", script], stdout=out, stderr=out, env=self.env(), cwd="/")

    def sendmail(self, rcpt):
        return [f"{self.root}/usr/sbin/sendmail", rcpt]

    def purge(self):
        for sub in ("queue", "corrupt", "incoming", "purge", "temporary"):
            folder = os.path.join("/var/spool/smtpd", sub)
            if os.path.isdir(folder):
                for name in os.listdir(folder):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


class Exim(Server):
    name = "exim"
    port = int(os.environ.get("BENCH_PORT_EXIM", "2528"))

    def __init__(self):
        super().__init__()
        self.binary = os.environ.get("EXIM", "/usr/sbin/exim4")
        self.conf = os.environ.get("EXIM_CONF", "/etc/exim4/exim4.conf")  # compiled in
        self.spool = os.path.join(self.state, "spool")
        self.logs = os.path.join(self.state, "log")
        for path in (self.spool, self.logs):
            os.makedirs(path, exist_ok=True)
            shutil.chown(path, "Debian-exim", "Debian-exim")

    def configure(self, remote=20):
        self.write(
            self.conf,
            f"""
            primary_hostname = mx.{DOMAIN}
            exim_path = {self.binary}
            qualify_domain = {DOMAIN}
            spool_directory = {self.spool}
            log_file_path = {self.logs}/%slog
            local_interfaces = {HOST}
            daemon_smtp_ports = {self.port}
            tls_advertise_hosts =
            host_lookup =
            rfc1413_query_timeout = 0s
            smtp_accept_max = 200
            smtp_accept_max_per_host = 200
            smtp_accept_queue_per_connection = 0
            smtp_connect_backlog = 128
            remote_max_parallel = {remote}
            queue_run_max = {remote}
            recipients_max = 50000
            keep_environment =
            disable_ipv6 = true
            acl_smtp_rcpt = accept_all
            acl_smtp_data = accept_all
            domainlist ours = {DOMAIN}
            begin acl
            accept_all:
              accept
            begin routers
            dead:
              driver = manualroute
              domains = {DEAD}
              transport = smtp_dead
              route_list = * {HOST}
              self = send
            remote:
              driver = manualroute
              domains = ! +ours
              transport = smtp_sink
              route_list = * {HOST}
              self = send
            localuser:
              driver = accept
              check_local_user
              local_part_suffix = -*
              local_part_suffix_optional
              transport = maildir
            begin transports
            smtp_dead:
              driver = smtp
              port = {DEAD_PORT}
              hosts_try_fastopen =
              allow_localhost
            smtp_sink:
              driver = smtp
              port = {SINK_PORT}
              hosts_try_fastopen =
              allow_localhost
            maildir:
              driver = appendfile
              maildir_format
              directory = $home/Maildir
              delivery_date_add
              envelope_to_add
              return_path_add
            begin retry
            * * F,2h,15m; F,4d,6h
            """,
        )

    def launch(self):
        self.group.spawn(
            [self.binary, "-bdf", "-q5m"], env=self.env(), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def sendmail(self, rcpt):
        return [self.binary, rcpt]

    def purge(self):
        for sub in ("input", "msglog", "db"):
            shutil.rmtree(os.path.join(self.spool, sub), ignore_errors=True)


SERVERS = {cls.name: cls for cls in (Notqmail, Postfix, Opensmtpd, Exim, Pyqmail)}


def make(name):
    try:
        return SERVERS[name]()
    except (KeyError, OSError, LookupError) as error:
        raise BenchError(f"{name}: {error!r}") from error
