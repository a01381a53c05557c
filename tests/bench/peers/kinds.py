"""What each server is told for a kind of work beyond plain mail, as its manual or its package has it.

submission: STARTTLS and AUTH PLAIN, a sender bound to the user. tls: STARTTLS. pop3s: a Maildir read in TLS. checked:
strangers' mail, SPF, DKIM and DMARC looked at, and what fails refused. unchecked: the same mail, and nothing looked at.
signed: mail that goes out by DKIM, in TLS.
"""

import functools
import os
import shutil
from pathlib import Path

from tests.bench.peers.common import DOMAIN, HOST, STATE, USER, find, free_port
from tests.bench.peers.names import SELECTOR, signing_key
from tests.bench.peers.private import crypted
from tests.certificates import self_signed

SUBMISSION, TLS, POP3S, CHECKED, SIGNED = "submission", "tls", "pop3s", "checked", "signed"
UNCHECKED = "unchecked"


@functools.cache
def certificate():
    """(key and certificate, certificate, key): files for mx.DOMAIN by ECDSA, as the public ones mostly are today."""
    base = Path(STATE, "certificate")
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    both = self_signed(base, f"mx.{DOMAIN}")
    return str(both), str(both.with_suffix(".crt")), str(both.with_suffix(".key"))


@functools.cache
def pop3s_port():
    return free_port()


@functools.cache
def dkim_port():
    return free_port()


@functools.cache
def dmarc_port():
    return free_port()


# --- pyqmail ------------------------------------------------------------------

QMAIL_CONTROLS = {
    SUBMISSION: {"authd": ""},
    POP3S: {"authd": ""},
    CHECKED: {"spfbehavior": "3\n", "dmarcbehavior": "3\n"},
}
SECURED = (SUBMISSION, TLS, POP3S)  # which need a certificate
# of control-examples/service
QMAIL_ENVIRON = {
    SUBMISSION: {
        "SMTPAUTH": "!",
        "FORCEAUTHMAILFROM": "1",
        "COMPLETEHEADER": "1",
        "HIDECLIENT": "1",
        "SMTPD_ERRORLIMIT": "20",
    },
    CHECKED: {},  # no relay client
    UNCHECKED: {},
}
QMAIL_SOCKETS = {  # of helpers that it waits for
    SUBMISSION: ("qmail-authd.sock",),
    POP3S: ("qmail-authd.sock",),
    CHECKED: ("qmail-verifyd.sock",),
    SIGNED: ("qmail-verifyd.sock",),
}
# control files of these kinds: there in no other run
QMAIL_OWN = ("authd", "servercert.pem", "spfbehavior", "dmarcbehavior", "domainkeys")


def qmail_key(home):
    """The key of DOMAIN, where qmail-dkimkey would put it."""
    folder = f"{home}/control/domainkeys/{DOMAIN}"
    os.makedirs(folder, 0o755)
    shutil.copy(signing_key()[0], f"{folder}/{SELECTOR}")
    for path, mode in ((folder, 0o750), (f"{folder}/{SELECTOR}", 0o640)):
        shutil.chown(path, "root", "qmail")
        os.chmod(path, mode)


def qmail_pop3s(home):
    """The listener of port 995, as control-examples/service has it."""
    return (
        f"tcpserver -v -R -H -l 0 -c 40 {HOST} {pop3s_port()} "
        f"{home}/bin/qmail-popup mx.{DOMAIN} {home}/bin/checkpassword {home}/bin/qmail-pop3d Maildir"
    )


# --- Postfix and Dovecot ------------------------------------------------------


def postfix_main(kind, state):
    """Lines for main.cf."""
    lines = []
    if kind in (SUBMISSION, TLS):
        both, _, _ = certificate()
        lines += [f"smtpd_tls_chain_files = {both}", "smtpd_tls_security_level = may"]
    if kind == TLS:
        lines += ["smtp_tls_security_level = may"]
    if kind == SUBMISSION:
        lines += [
            "smtpd_sasl_type = dovecot",
            f"smtpd_sasl_path = {state}/dovecot-auth",
            f"smtpd_sender_login_maps = inline:{{ {{ {USER}@{DOMAIN} = {USER} }} }}",
        ]
    if kind == CHECKED:
        lines += [
            f"smtpd_milters = inet:{HOST}:{dkim_port()}, inet:{HOST}:{dmarc_port()}",
            "smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service unix:private/policyd-spf",
            "policyd-spf_time_limit = 3600",
        ]
    if kind == SIGNED:
        lines += [f"smtpd_milters = inet:{HOST}:{dkim_port()}", "smtp_tls_security_level = may"]
    return "".join(line + "\n" for line in lines)


def milters(kind, state):
    """The commands of opendkim and opendmarc; their configuration is their packages', and what they have to know."""
    own = [f"AuthservID mx.{DOMAIN}", f"Syslog yes\nSyslogSuccess yes\nSocket inet:{dkim_port()}@{HOST}\nUMask 007"]
    if kind == SIGNED:
        key = f"{state}/signing-key"
        shutil.copy(signing_key()[0], key)
        shutil.chown(key, "opendkim", "opendkim")
        own += [f"Mode s\nDomain {DOMAIN}\nSelector {SELECTOR}\nKeyFile {key}\nCanonicalization relaxed/relaxed"]
    else:
        own += ["Mode v", "Nameservers 127.0.0.1"]
    words = [[find("opendkim"), "-f", "-x", written(f"{state}/opendkim.conf", [*own, "UserID opendkim"])]]
    if kind == CHECKED:
        own = [f"AuthservID mx.{DOMAIN}", f"TrustedAuthservIDs mx.{DOMAIN}", "RejectFailures true", "Syslog true"]
        own += [f"Socket inet:{dmarc_port()}@{HOST}", "UserID opendmarc"]
        words += [[find("opendmarc"), "-f", "-c", written(f"{state}/opendmarc.conf", own)]]
    return words


def written(path, lines):
    """The path of a file with these lines."""
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    return path


def postfix_smtpd(kind):
    """Options of the smtpd in master.cf: its own example of submission."""
    if kind != SUBMISSION:
        return ""
    return (
        " -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes"
        " -o smtpd_sender_restrictions=reject_sender_login_mismatch"
        " -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"
    )


def dovecot_conf(state, *, pop3=False, cache=False):
    """Dovecot for POP3S, or for the auth socket alone. Its passwords are checked by PAM, as ours are."""
    _, crt, key = certificate()
    lines = [
        f"base_dir = {state}/dovecot",
        f"state_dir = {state}/dovecot",
        f"log_path = {state}/dovecot.log",
        f"protocols = {'pop3' if pop3 else 'none'}",
        f"listen = {HOST}",
        "ssl = required",
        f"ssl_cert = <{crt}",
        f"ssl_key = <{key}",
        "mail_location = maildir:~/Maildir",
        # PAM's answers are cached by what the key names only: a service may ask for more than a name
        f"passdb {{\n  driver = pam\n  args = {'cache_key=%u ' if cache else ''}dovecot\n}}",
        "userdb {\n  driver = passwd\n}",
    ]
    if cache:
        lines.append("auth_cache_size = 10M")
    if pop3:
        lines.append(
            "service pop3-login {\n  inet_listener pop3 {\n    port = 0\n  }\n"
            f"  inet_listener pop3s {{\n    port = {pop3s_port()}\n    ssl = yes\n  }}\n}}"
        )
    else:
        lines.append(
            f"service auth {{\n  unix_listener {state}/dovecot-auth {{\n    mode = 0660\n    user = postfix\n"
            "    group = postfix\n  }\n}"
        )
    path = os.path.join(state, "dovecot.conf")
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    return path


# --- Exim ---------------------------------------------------------------------


def exim_main(kind, etc):
    """Lines for the first section of exim4.conf."""
    if kind not in (SUBMISSION, TLS):
        return "tls_advertise_hosts ="
    _, crt, key = certificate()
    for path, name in ((crt, "exim.crt"), (key, "exim.key")):
        shutil.copy(path, f"{etc}/{name}")
        os.chmod(f"{etc}/{name}", 0o644)  # for this run, and its user has a number only
    lines = ["tls_advertise_hosts = *", "tls_certificate = /etc/exim4/exim.crt", "tls_privatekey = /etc/exim4/exim.key"]
    if kind == SUBMISSION:
        lines.append("auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}")
    return "\n            ".join(lines)


def exim_acl(kind):
    """What the ACL of recipients says before it accepts."""
    if kind == CHECKED:
        return (
            "deny spf = fail\n              warn add_header = :at_start:$spf_received\n"
            "              deny !domains = +ours\n              "
        )
    if kind != SUBMISSION:
        return ""
    return (
        "deny !authenticated = *\n"
        f"              deny !condition = ${{if eq{{$sender_address}}{{$authenticated_id@{DOMAIN}}}}}\n              "
    )


def exim_data_acl(kind):
    """What the ACL of whole messages says before it accepts: results of SPF and DKIM. It has no DMARC in Debian 12."""
    if kind != CHECKED:
        return ""
    return f"warn add_header = :at_start:${{authresults {{mx.{DOMAIN}}}}}\n              "


def exim_transport(kind, etc):
    """Options of the transport to the sink. TLS is used where it is offered."""
    if kind != SIGNED:
        return ""
    shutil.copy(signing_key()[0], f"{etc}/signing-key")
    os.chmod(f"{etc}/signing-key", 0o644)
    lines = [f"dkim_domain = {DOMAIN}", f"dkim_selector = {SELECTOR}", "dkim_private_key = /etc/exim4/signing-key"]
    return "\n              ".join(lines)


def exim_authenticators(kind, etc):
    """The last sections of exim4.conf; passwords are compared by crypteq, with the hash that the others have."""
    if kind != SUBMISSION:
        return ""
    with open(f"{etc}/passwords", "w") as f:
        f.write(f"{USER}:{crypted()}\n")
    os.chmod(f"{etc}/passwords", 0o644)
    return r"""
            begin authenticators
            plain:
              driver = plaintext
              public_name = PLAIN
              server_prompts = :
              server_condition = "${if crypteq{$auth3}{\
                ${extract{1}{:}{${lookup{$auth2}lsearch{/etc/exim4/passwords}{$value}{*:*}}}}}{1}{0}}"
              server_set_id = $auth2
            """
