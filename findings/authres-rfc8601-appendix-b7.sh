#!/bin/sh
# authres 1.2.0 (PyPI) reads comments and blanks nearly everywhere in an Authentication-Results field, but not a blank
# between the comment behind a method's version and "=". RFC 8601 allows it (CFWS, section 2.2), and its own example for
# comments (appendix B.7) is written so.
#
# Seen: "dkim / 1 (c)=fail" and "dkim (c) = fail" are read; "dkim / 1 (c) = fail" is a SyntaxError of authres (not Python's)
# for the whole field, and its other results are lost with it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check authres==1.2.0 2>/dev/null
cat >show.py <<'P'
import authres

for method in ("dkim (c) = fail", "dkim / 1 (c)=fail", "dkim / 1 (c) = fail"):
    field = f"Authentication-Results: mx.example (our name) 1;\r\n spf=pass smtp.mailfrom=a.example;\r\n {method}"
    try:
        print(f"{method}: {[found.method for found in authres.AuthenticationResultsHeader.parse(field).results]}")
    except authres.SyntaxError as error:
        print(f"{method}: {type(error).__module__}: {str(error).partition(' at:')[0]}")
P
venv/bin/python show.py | tee out
cat >seen <<'S'
dkim (c) = fail: ['spf', 'dkim']
dkim / 1 (c)=fail: ['spf', 'dkim']
dkim / 1 (c) = fail: authres.core: Syntax error: Expected "="
S
cmp out seen
