#!/bin/sh
# dkimpy 1.1.8 (PyPI): a relaxed body hash of a text whose last line has blanks at its end and no line end. By RFC 6376
# section 3.4.4 blanks at the end of each line go, and a line end is added where the last line has none; so "abc \t" and
# "abc \t" CR LF have one canonical form, "abc" CR LF. dkimpy adds the line end first, of the first makes "abc " CR LF,
# and of "\t\t" " " CR LF where nothing should be left.
#
# Seen: what dkimpy signs from a file without a last line end it does not verify once SMTP has ended the line; without
# the blanks it does.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check dkimpy==1.1.8 dnspython==2.8.0 setuptools==80.9.0
openssl genrsa -traditional -out key.pem 2048 2>/dev/null
openssl rsa -in key.pem -pubout -outform DER 2>/dev/null | base64 -w0 >public
cat >show.py <<'P'
import dkim

key, public = open("key.pem", "rb").read(), open("public", "rb").read()
head = b"From: a@sender.example\r\nSubject: x\r\n\r\n"
for body in (b"abc", b"abc \t", b"\t\t"):
    words = {"canonicalize": (b"relaxed", b"relaxed"), "include_headers": [b"from"]}
    field = dkim.sign(head + body, b"s", b"sender.example", key, **words)
    seen = dkim.verify(field + head + body + b"\r\n", dnsfunc=lambda name, timeout=5: b"v=DKIM1; p=" + public)
    print(body, "verifies with its line end:", seen)
P
venv/bin/python show.py | tee out
printf '%s\n' "b'abc' verifies with its line end: True" "b'abc \\\\t' verifies with its line end: False" \
  "b'\\\\t\\\\t' verifies with its line end: False" >want
sed 's/\\\\/\\/g' want | cmp - out
