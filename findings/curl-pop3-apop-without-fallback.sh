#!/bin/sh
# libcurl 8.12.1 (in pycurl 7.45.6, PyPI): POP3 with a user and a password where the greeting has a timestamp, so that
# APOP may be used (RFC 1939 section 7), and the server refuses APOP, as one must that has only hashes of passwords.
# RFC 1939 section 4 lets a client try another way in the same state, and CAPA says USER (RFC 2449 section 6.3).
#
# Seen: curl sends APOP, and after -ERR neither USER nor PASS: the login has failed. Without the timestamp it logs in.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pycurl==7.45.6
cat >show.py <<'P'
import io
import socket
import threading

import pycurl

ANSWERS = {
    b"CAPA": b"+OK\r\nUSER\r\nUIDL\r\n.\r\n", b"APOP": b"-ERR not this way\r\n", b"USER": b"+OK\r\n",
    b"PASS": b"+OK\r\n", b"LIST": b"+OK\r\n.\r\n", b"QUIT": b"+OK\r\n",
}  # fmt: skip


def serve(listener, greeting, heard):
    connection, _ = listener.accept()
    with connection, connection.makefile("rwb") as stream:
        stream.write(b"+OK " + greeting + b"\r\n")
        stream.flush()
        for line in stream:
            verb = line.split()[0].upper()
            heard.append(verb.decode())
            stream.write(ANSWERS[verb])
            stream.flush()
            if verb == b"QUIT":
                return


for greeting in (b"ready", b"<1.2@pop.example.org>"):
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, greeting, heard))
        thread.start()
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, "pop3://127.0.0.1:%d/" % listener.getsockname()[1])
        curl.setopt(pycurl.USERPWD, "ann:secret")
        curl.setopt(pycurl.TIMEOUT, 20)
        curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        try:
            curl.perform()
            result = "logged in"
        except pycurl.error as error:
            result = "error %d" % error.args[0]
        curl.close()
        thread.join(20)
    print(greeting.decode(), *heard, result)
P
venv/bin/python show.py | tee out
printf '%s\n' 'ready CAPA USER PASS LIST QUIT logged in' '<1.2@pop.example.org> CAPA APOP error 67' | cmp - out
