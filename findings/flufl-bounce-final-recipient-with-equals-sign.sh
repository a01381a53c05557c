#!/bin/sh
# flufl.bounce 6.0.0 (PyPI; the parser of Mailman 3): a delivery status notification (RFC 3464) about an address whose
# local part has an equals sign, as VERP, SRS and BATV make them. RFC 5322 section 3.2.3 counts = among the letters of an
# atom, and RFC 3464 section 2.3.2 has the address behind the semicolon whole.
#
# Seen: of "Final-Recipient: rfc822; list-ann=home.example@lists.example" it reports "list-ann", to which nobody can be
# subscribed; the same address without the equals sign is whole, and in a bounce in qmail's words both are.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check flufl.bounce==6.0.0 atpublic==9.0.0
cat >show.py <<'P'
from email import message_from_string

from flufl.bounce import all_failures

STATUS = """From: mailer-daemon@mx.example
To: joe@client.example
Subject: failure notice
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=x

--x
Content-Type: text/plain

It could not be delivered.
--x
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example

Final-Recipient: rfc822; {address}
Action: failed
Status: 5.1.1

--x--
"""
QMAIL = """From: MAILER-DAEMON@mx.example
To: joe@client.example
Subject: failure notice

Hi. This is the qmail-send program at mx.example.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<{address}>:
No such user.

--- Below this line is a copy of the message.

Return-Path: <joe@client.example>
"""
for address in ("list-ann-home@lists.example", "list-ann=home.example@lists.example"):
    for form, text in (("status", STATUS), ("qmail", QMAIL)):
        found = sorted(all_failures(message_from_string(text.format(address=address)))[1])
        print(form, address, [each.decode() if isinstance(each, bytes) else each for each in found])
P
venv/bin/python show.py | tee out
cat >want <<'W'
status list-ann-home@lists.example ['list-ann-home@lists.example']
qmail list-ann-home@lists.example ['list-ann-home@lists.example']
status list-ann=home.example@lists.example ['list-ann']
qmail list-ann=home.example@lists.example ['list-ann=home.example@lists.example']
W
cmp want out
