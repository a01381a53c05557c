"""One adapter per mail server. Each assumes an installed or unpacked server; none builds one.

An adapter says how to configure, start, stop and empty its server, and knows its
SMTP port and its sendmail command. All listen on loopback only.
"""

import ctypes
import fcntl
import grp
import json
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import textwrap

from pyqmail.admin.first_controls import RECOMMENDED
from tests.bench.peers import kinds
from tests.bench.peers.common import (
    DEAD,
    DOMAIN,
    HOST,
    STATE,
    BenchError,
    Group,
    claim,
    dead_port,
    find,
    free_port,
    maildir,
    sink_port,
    slow_hosts,
    wait_port,
    wait_socket,
)

PEERS = os.environ.get("PYQMAIL_TEST_PEERS", "/var/cache/pyqmail-tests/peers")  # also where bin/run-tests puts them
HEAVY = f"{PEERS}/heavy"  # an Exim that knows SPF
PACKAGES = {PEERS: ("exim4-daemon-light", "opensmtpd"), HEAVY: ("exim4-daemon-heavy",)}
PYTHON = "/usr/bin/python3"  # the interpreter of the launchers
FOREIGN_UID = 20990  # of the unpacked servers' own users, who exist in their mount namespaces only
CLONE_NEWNS = 0x00020000
SHARING = {name: data.decode().rstrip() for name, data in RECOMMENDED.items()}  # what a new tree of ours has


class Many:
    """Mailboxes of as many uids, for one run: ``users`` has (name, uid, home) of each."""

    def __init__(self, base, users):
        self.base, self.users = base, users

    def file(self, name, line):
        """A file below the base with one line for each user."""
        path = os.path.join(self.base, name)
        with open(path, "w") as f:
            f.writelines(line.format(name=n, uid=u, home=h) + "\n" for n, u, h in self.users)
        os.chmod(path, 0o644)
        return path


class Server:
    name = ""
    sharing = {}  # control files by which messages share connections and recipients transactions
    workloads = None  # all
    indexed = True  # its tables of users can have 10,000 lines
    kinds = ()  # of work, peers/kinds.py, that it can do
    says = (b"spf=pass", b"dkim=pass", b"dmarc=pass")  # of strangers' mail that is what it seems, in its header

    def __init__(self):
        self.state = os.path.join(STATE, self.name)
        os.makedirs(self.state, exist_ok=True)
        os.chmod(STATE, 0o755)
        self.port = int(os.environ.get(f"BENCH_PORT_{self.name.upper()}") or free_port())
        claim(self.state)
        self.group = Group(self.name)

    def configure(self, remote=20, slow=False, alone=False, many=None, kind=""):
        """Write configuration for the given remote concurrency; many: a Many to deliver to at many_domain.

        kind: one of ``kinds``, of peers/kinds.py.
        """

    many_domain = "many.test"

    def forget_many(self):
        """Undo what configure(many=) wrote outside of the state directory."""

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

    def inside(self, work):
        """work() where the server's sendmail command works."""
        return work()

    def start(self):
        self.launch()
        wait_port(self.port)

    def stop(self):
        self.quit()
        self.group.end()

    def close(self):
        """Nothing more is wanted of this server."""
        self.group.remove()

    def write(self, path, text):
        with open(path, "w") as f:
            f.write(textwrap.dedent(text).lstrip("\n"))


class QmailLike(Server):
    """A tree with the qmail layout: control/, queue/, bin/sendmail. Both have the same logger and the same listener."""

    home = rc = smtpd = ""
    many_domain = DOMAIN

    def __init__(self, home):
        super().__init__()
        self.home = home
        if not os.access(f"{home}/bin/qmail-send", os.X_OK):
            raise BenchError(f"no {home}/bin/qmail-send")
        claim(home)
        with open(f"{home}/queue/lock/sendmutex", "r+b") as mutex:
            try:
                fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BenchError(f"{home} is in use: its qmail-send runs") from None
        logs = os.path.join(self.state, "log")
        os.makedirs(logs, exist_ok=True)
        shutil.chown(logs, "qmaill")
        self.rc = f"{home}/bin/qmail-start ./Maildir/ {find('multilog')} t s16777215 n5 {logs}"
        user, group = pwd.getpwnam("qmaild").pw_uid, grp.getgrnam("nofiles").gr_gid
        self.smtpd = (
            f"tcpserver -H -R -l {DOMAIN} -c 200 -b 128 -u {user} -g {group} {HOST} {self.port} {home}/bin/qmail-smtpd"
        )

    def configure(self, remote=20, slow=False, alone=False, many=None, kind=""):
        control = os.path.join(self.home, "control")
        routes = [f"{DEAD}:{HOST}:{dead_port()}"]
        if slow:
            routes += [f"{domain}:{address}:{sink_port()}" for domain, address in slow_hosts()]
        routes.append(f":{HOST}:{sink_port()}")
        controls = {
            "me": "mx." + DOMAIN,
            "locals": DOMAIN,
            "rcpthosts": f"{DOMAIN}\n{DEAD}",
            "defaultdomain": DOMAIN,
            "defaulthost": DOMAIN,
            "plusdomain": DOMAIN,
            "concurrencyremote": str(remote),
            "smtproutes": "\n".join(routes),
        }
        for name in SHARING:
            if os.path.exists(os.path.join(control, name)):
                os.unlink(os.path.join(control, name))
        for name, text in (controls | ({} if alone else self.sharing)).items():
            path = os.path.join(control, name)
            self.write(path, text + "\n")
            os.chmod(path, 0o644)
        self.kind = kind
        if many:
            assign = many.file("assign", "={name}:{name}:{uid}:{uid}:{home}:::")
            with open(assign, "a") as f:
                f.write(".\n")
            shutil.copy(assign, f"{self.home}/users/assign")
            subprocess.run([f"{self.home}/bin/qmail-newu"], check=True, env={"PATH": os.defpath})

    def forget_many(self):
        for name in ("assign", "cdb"):
            if os.path.exists(f"{self.home}/users/{name}"):
                os.unlink(f"{self.home}/users/{name}")

    def launch(self):
        env = {"PATH": f"{self.home}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        with open(os.path.join(self.state, "stderr"), "wb") as err:
            self.group.spawn(shlex.split(self.rc), env=env, cwd="/", stdout=err, stderr=err)
            for words, more in self.listeners():
                self.group.spawn(shlex.split(words), env=env | more, cwd="/", stdout=err, stderr=err)

    def listeners(self):
        """(command, environment) of each service besides qmail-start."""
        return [(self.smtpd, {"RELAYCLIENT": ""})]

    def sendmail(self, rcpt):
        return [f"{self.home}/bin/sendmail", rcpt]

    def purge(self):
        for sub in ("mess", "info", "local", "remote", "todo", "intd", "bounce", "pid", "pyqmail"):
            for folder, _, names in os.walk(os.path.join(self.home, "queue", sub)):
                for name in names:
                    os.unlink(os.path.join(folder, name))


class Notqmail(QmailLike):
    name = "notqmail"

    def __init__(self):
        super().__init__(os.environ.get("NOTQMAIL_HOME", "/var/notqmail"))


class Pyqmail(QmailLike):
    """The tree $QMAIL, made by bin/qmail-setup."""

    name = "pyqmail"
    sharing = SHARING
    kinds = (kinds.SUBMISSION, kinds.TLS, kinds.POP3S, kinds.CHECKED, kinds.UNCHECKED, kinds.SIGNED)

    def __init__(self):
        super().__init__(os.environ.get("QMAIL", "/var/qmail"))

    def configure(self, remote=20, slow=False, alone=False, many=None, kind=""):
        super().configure(remote, slow, alone, many, kind)
        control = f"{self.home}/control"
        for name in kinds.QMAIL_OWN:
            if os.path.isdir(f"{control}/{name}"):
                shutil.rmtree(f"{control}/{name}")
            elif os.path.exists(f"{control}/{name}"):
                os.unlink(f"{control}/{name}")
        if kind == kinds.SIGNED:
            kinds.qmail_key(self.home)
        for name, text in kinds.QMAIL_CONTROLS.get(kind, {}).items():
            self.write(f"{control}/{name}", text)
        if kind in kinds.SECURED:
            _, crt, key = kinds.certificate()
            subprocess.run([f"{self.home}/bin/qmail-cert", "install", crt, key], check=True, stdout=subprocess.DEVNULL)

    def purge(self):
        super().purge()
        failures = f"{self.home}/users/authd.failures"  # of a run with a wrong password: the next one would wait for it
        if os.path.exists(failures):
            os.unlink(failures)

    def start(self):
        super().start()
        for name in kinds.QMAIL_SOCKETS.get(self.kind, ()):
            wait_socket(f"{self.home}/run/{name}", socket.SOCK_SEQPACKET)

    def listeners(self):
        # what is said of strangers begins with their names, which Postfix and Exim look up, too
        words = self.smtpd.replace(" -H ", " ") if self.kind in (kinds.CHECKED, kinds.UNCHECKED) else self.smtpd
        smtpd = (words, kinds.QMAIL_ENVIRON.get(self.kind, {"RELAYCLIENT": ""}))
        return [smtpd] + [(kinds.qmail_pop3s(self.home), {"POP3S": "1"})] * (self.kind == kinds.POP3S)


class Postfix(Server):
    """The Debian package, with an instance of its own below the state directory."""

    name = "postfix"
    kinds = (kinds.SUBMISSION, kinds.TLS, kinds.CHECKED, kinds.SIGNED)
    says = (b"Received-SPF: Pass", b"dkim=pass", b"dmarc=pass")
    auth_cache = False  # Dovecot's: off unless asked for
    services = """
        {host}:{port} inet n - n - - smtpd{options}
        tlsmgr unix - - n 1000? 1 tlsmgr
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
        policyd-spf unix - n n - 0 spawn user=policyd-spf argv=/usr/bin/policyd-spf
        """

    def __init__(self):
        super().__init__()
        self.conf = os.path.join(self.state, "etc")
        self.queue = os.path.join(self.state, "spool")
        self.data = os.path.join(self.state, "data")
        for path in (self.conf, self.queue, self.data):
            os.makedirs(path, exist_ok=True)
        shutil.chown(self.data, "postfix", "postfix")

    def configure(self, remote=20, slow=False, alone=False, many=None, kind=""):
        routes = os.path.join(self.conf, "routes")
        hops = [(DEAD, HOST, dead_port())] + [(d, a, sink_port()) for d, a in slow_hosts() if slow]
        self.write(routes, "".join(f"{domain} smtp:[{address}]:{port}\n" for domain, address, port in hops))
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
            relayhost = [{HOST}]:{sink_port()}
            transport_maps = texthash:{routes}
            smtp_destination_concurrency_limit = {remote}
            default_process_limit = {max(100, remote)}
            """,
        )
        if many:
            boxes = many.file("boxes", "{name}@many.test {home}/Maildir/")
            uids = many.file("uids", "{name}@many.test {uid}")
            with open(os.path.join(self.conf, "main.cf"), "a") as f:
                f.write("virtual_mailbox_domains = many.test\nvirtual_mailbox_base = /\n")
                f.write(f"virtual_mailbox_maps = texthash:{boxes}\n")
                f.write(f"virtual_uid_maps = texthash:{uids}\nvirtual_gid_maps = texthash:{uids}\n")
        self.kind = kind
        with open(os.path.join(self.conf, "main.cf"), "a") as f:
            f.write(kinds.postfix_main(kind, self.state))
        services = self.services.format(host=HOST, port=self.port, options=kinds.postfix_smtpd(kind))
        self.write(os.path.join(self.conf, "master.cf"), services)
        # postdrop and postqueue accept another configuration only when the main one names it
        known = subprocess.run(["postconf", "-h", "alternate_config_directories"], capture_output=True, text=True)
        if self.conf not in known.stdout:
            both = (known.stdout.strip() + " " + self.conf).strip()
            subprocess.run(["postconf", "-e", f"alternate_config_directories={both}"], check=True)

    def launch(self):
        if self.kind == kinds.SUBMISSION:
            conf = kinds.dovecot_conf(self.state, cache=self.auth_cache)
            self.group.spawn([find("dovecot"), "-F", "-c", conf])
            wait_socket(os.path.join(self.state, "dovecot-auth"), socket.SOCK_STREAM)
        if self.kind in (kinds.CHECKED, kinds.SIGNED):
            for words in kinds.milters(self.kind, self.state):
                self.group.spawn(words)
        self.group.run(["postfix", "-c", self.conf, "start"])

    def quit(self):
        subprocess.run(["postfix", "-c", self.conf, "stop"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def purge(self):
        if os.path.exists(os.path.join(self.conf, "main.cf")):
            subprocess.run(
                ["postsuper", "-c", self.conf, "-d", "ALL"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def sendmail(self, rcpt):
        return ["/usr/sbin/sendmail", "-C", self.conf, rcpt]


class PostfixCache(Postfix):
    """Postfix with Dovecot's cache of passwords on."""

    name = "postfix-cache"
    auth_cache = True
    workloads = ("w8",)


class Dovecot(Server):
    """The Debian package, for POP3S."""

    name = "dovecot"
    kinds = (kinds.POP3S,)
    workloads = ("w13",)

    def launch(self):
        self.group.spawn([find("dovecot"), "-F", "-c", kinds.dovecot_conf(self.state, pop3=True)])

    def start(self):
        self.launch()


class Unpacked(Server):
    """A server whose Debian package conflicts with Postfix's: unpacked below PEERS, run in a mount namespace.

    Its compiled-in paths are bound there to the state directory, and its users exist there only.
    """

    program = ""
    users = ()

    def __init__(self):
        super().__init__()
        self.binary = f"{PEERS}/usr/sbin/{self.program}"
        if not os.access(self.binary, os.X_OK):
            raise BenchError(f"no {self.binary}: run compare.py unpack")
        for name, line in (("passwd", "{}:x:{}:{}::/var/empty:/bin/false\n"), ("group", "{}:x:{}:\n")):
            with open(f"/etc/{name}") as f:
                kept = [line for line in f if line.split(":")[0] not in self.users]
            uids = enumerate(self.users, FOREIGN_UID)
            text = "".join(kept) + "".join(line.format(user, uid, uid) for uid, user in uids)
            with open(os.path.join(self.state, name), "w") as f:
                f.write(text)

    def folder(self, name, user=None):
        """A directory of the state."""
        path = os.path.join(self.state, name)
        os.makedirs(path, exist_ok=True)
        if user is not None:
            os.chown(path, user, user)
        return path

    def run(self, binds, argv):
        """Start ``argv`` with ``binds``, pairs of a state file or directory and the place it stands in for."""
        lines = ["set -e", "mount --make-rprivate /"]
        for source, target in [(f"{self.state}/passwd", "/etc/passwd"), (f"{self.state}/group", "/etc/group"), *binds]:
            if os.path.isdir(source):
                os.makedirs(target, exist_ok=True)  # an empty directory as a mount point, if there is none
            lines.append(f"mount --bind {source} {os.path.realpath(target)}")
        script = "\n".join([*lines, "exec " + " ".join(argv)])
        with open(os.path.join(self.state, "output"), "wb") as out:
            self.group.spawn(["unshare", "-m", "sh", "-c", script], stdout=out, stderr=out, env=self.env(), cwd="/")

    def inside(self, work):
        """The result of work(), which json can express, in a child that has joined the namespace."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                fd = os.open(f"/proc/{self.group.roots[0].pid}/ns/mnt", os.O_RDONLY)
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNS):
                    raise OSError(ctypes.get_errno(), "setns")
                text, code = json.dumps(work()), 0
            except BaseException as error:
                text = repr(error)
            with open(writer, "w") as f:
                f.write(text)
            os._exit(code)
        os.close(writer)
        with open(reader) as f:
            text = f.read()
        if os.waitpid(child, 0)[1]:
            raise BenchError(text)
        return json.loads(text)


class Opensmtpd(Unpacked):
    name = "opensmtpd"
    program = "smtpd"
    users = ("opensmtpd", "opensmtpq")

    def configure(self, remote=20, slow=False, alone=False, many=None, kind=""):
        routes = [("dead", DEAD, HOST, dead_port())]
        routes += [(f"slow{i}", d, a, sink_port()) for i, (d, a) in enumerate(slow_hosts()) if slow]
        actions = [f'action "{name}" relay host smtp+notls://{address}:{port}' for name, _, address, port in routes]
        matches = [f'match from any for domain "{domain}" action "{name}"' for name, domain, _, _ in routes]
        if many:
            table = many.file("users", "{name} {uid}:{uid}:{home}")
            actions += [f"table many file:{table}", 'action "many" maildir userbase <many>']
            matches.append('match from any for domain "many.test" action "many"')
        self.write(
            f"{self.state}/smtpd.conf",
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
            """,
        )
        with open(f"{self.state}/smtpd.conf", "a") as f:
            f.write("\n".join(actions) + '\naction "local" maildir\n')
            f.write(f'action "relay" relay host smtp+notls://{HOST}:{sink_port()}\n')
            f.write("\n".join(matches) + f'\nmatch from any for domain "{DOMAIN}" action "local"\n')
            f.write('match from any for any action "relay"\n')

    def launch(self):
        self.write(f"{self.state}/resolv.conf", "lookup file\n")  # else it waits for DNS
        os.makedirs(self.folder("spool") + "/smtpd", 0o711, exist_ok=True)
        os.makedirs("/var/lib/opensmtpd/empty", exist_ok=True)
        binds = [
            (f"{self.state}/resolv.conf", "/etc/resolv.conf"),
            (self.folder("spool"), "/var/spool"),
            (f"{PEERS}/usr/libexec/opensmtpd", "/usr/libexec/opensmtpd"),
            (self.folder("run"), "/run"),
        ]
        self.run(binds, [self.binary, "-d", "-f", f"{self.state}/smtpd.conf"])

    def sendmail(self, rcpt):
        path = f"{self.state}/sendmail"
        shutil.copy(f"{PEERS}/usr/sbin/smtpctl", path)
        os.chown(path, 0, FOREIGN_UID + self.users.index("opensmtpq"))
        os.chmod(path, 0o2755)
        return [path, rcpt]

    def purge(self):
        shutil.rmtree(os.path.join(self.state, "spool"), ignore_errors=True)


class Exim(Unpacked):
    name = "exim"
    indexed = False  # lsearch
    says = (b"spf=pass", b"dkim=pass")  # Debian 12's knows no DMARC
    kinds = (kinds.SUBMISSION, kinds.TLS, kinds.CHECKED, kinds.SIGNED)
    program = "exim4"
    users = ("Debian-exim",)

    def configure(self, remote=20, slow=False, alone=False, many=None, kind=""):
        self.binary = f"{HEAVY if kind == kinds.CHECKED else PEERS}/usr/sbin/exim4"
        spool, logs, etc = self.folder("spool", FOREIGN_UID), self.folder("log", FOREIGN_UID), self.folder("etc")
        routers = transports = ""
        if slow:
            hops = "".join(f"{d}: {a}\n" for d, a in slow_hosts())
            self.write(f"{etc}/slow", hops)
            routers = """
            slow:
              driver = manualroute
              domains = lsearch;/etc/exim4/slow
              transport = smtp_sink
              route_data = ${lookup{$domain}lsearch{/etc/exim4/slow}}
              self = send
            """
        if many:
            homes, uids = many.file("homes", "{name}: {home}"), many.file("uids", "{name}: {uid}")
            routers += f"""
            many:
              driver = accept
              domains = many.test
              local_parts = lsearch;{homes}
              transport = many_maildir
            """
            transports = f"""
            many_maildir:
              driver = appendfile
              maildir_format
              directory = ${{lookup{{$local_part}}lsearch{{{homes}}}}}/Maildir
              user = ${{lookup{{$local_part}}lsearch{{{uids}}}}}
              group = ${{lookup{{$local_part}}lsearch{{{uids}}}}}
              delivery_date_add
              envelope_to_add
              return_path_add
            """
        self.write(
            f"{etc}/exim4.conf",
            f"""
            primary_hostname = mx.{DOMAIN}
            exim_path = {self.binary}
            qualify_domain = {DOMAIN}
            spool_directory = {spool}
            pid_file_path = {spool}/pid
            log_file_path = {logs}/%slog
            local_interfaces = {HOST}
            daemon_smtp_ports = {self.port}
            {kinds.exim_main(kind, etc)}
            host_lookup = {"*" if kind == kinds.CHECKED else ""}
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
            acl_smtp_rcpt = recipients
            acl_smtp_data = texts
            domainlist ours = {DOMAIN}
            begin acl
            recipients:
              {kinds.exim_acl(kind)}accept
            texts:
              {kinds.exim_data_acl(kind)}accept
            begin routers
            dead:
              driver = manualroute
              domains = {DEAD}
              transport = smtp_dead
              route_list = * {HOST}
              self = send
            {routers}
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
            {transports}
            smtp_dead:
              driver = smtp
              port = {dead_port()}
              hosts_try_fastopen =
              allow_localhost
            smtp_sink:
              driver = smtp
              port = {sink_port()}
              hosts_try_fastopen =
              allow_localhost
              {kinds.exim_transport(kind, etc)}
            maildir:
              driver = appendfile
              maildir_format
              directory = $home/Maildir
              delivery_date_add
              envelope_to_add
              return_path_add
            begin retry
            * * F,2h,15m; F,4d,6h
            {kinds.exim_authenticators(kind, etc)}
            """,
        )

    def launch(self):
        self.run([(self.folder("etc"), "/etc/exim4")], [self.binary, "-bdf", "-q5m"])

    def sendmail(self, rcpt):
        return [self.binary, rcpt]

    def purge(self):
        for sub in ("input", "msglog", "db"):
            shutil.rmtree(os.path.join(self.state, "spool", sub), ignore_errors=True)


class Floor(Server):
    """tests/bench/floor.py: not a mail server, but what one cannot be faster than with our system calls."""

    name = "floor"
    workloads = ("w1",)

    def launch(self):
        queue = os.path.join(self.state, "queue")
        os.makedirs(queue, exist_ok=True)
        words = [
            PYTHON,
            "-ISXutf8",
            os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "floor.py"),
        ]
        with open(os.path.join(self.state, "stderr"), "wb") as err:
            self.group.spawn([*words, queue, maildir(), str(self.port)], env=self.env(), cwd="/", stderr=err)

    def purge(self):
        shutil.rmtree(os.path.join(self.state, "queue"), ignore_errors=True)


SERVERS = {cls.name: cls for cls in (Pyqmail, Notqmail, Postfix, PostfixCache, Dovecot, Opensmtpd, Exim, Floor)}


def unpack():
    """Exim and OpenSMTPD from Debian below PEERS, and the libraries that they need installed. As bin/run-tests does."""
    for root, names in PACKAGES.items():
        if not os.path.exists(f"{root}/ready"):
            unpack_into(root, names)


def unpack_into(root, names):
    packages = os.path.join(root, "packages")
    os.makedirs(packages, exist_ok=True)
    words = subprocess.run(["apt-cache", "depends", *names], check=True, capture_output=True, text=True).stdout.split()
    libraries = {
        b for a, b in zip(words, words[1:], strict=False) if a.strip("|") == "Depends:" and b.startswith("lib")
    }
    subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *sorted(libraries)], check=True)
    subprocess.run(["apt-get", "download", "-q", *names], check=True, cwd=packages)
    for name in os.listdir(packages):
        subprocess.run(["dpkg", "-x", os.path.join(packages, name), root], check=True)
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    with open(f"{root}/ready", "w"):
        pass


def make(name):
    if name not in SERVERS:
        raise BenchError(f"{name}: not one of {', '.join(SERVERS)}")
    try:
        return SERVERS[name]()
    except (OSError, LookupError) as error:
        raise BenchError(f"{name}: {error!r}") from error
