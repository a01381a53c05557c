#!/bin/sh
# parsedmarc 11.1.0 (PyPI) drops what stands behind the @ of a report's id, and of an org_name that is a host name all but
# the organizational domain, and passes over a report whose two were there already. RFC 9990 allows <dot-atom@dot-atom>
# as the id (Definition of Report-ID; its examples are such) and has it unique as a whole.
#
# Seen: of the reports of two hosts of one organization about the same domain and day, whose ids differ behind the @,
# the second one is lost, in an mbox and as files alike: "Skipping duplicate aggregate report", at debug level only. If
# they differ before it, both are read.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check parsedmarc==11.1.0 2>/dev/null
cat >make.py <<'P'
import email.message
import gzip
import sys

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0"><version>1.0</version>
<report_metadata><org_name>{host}</org_name><email>dmarc@example.org</email><report_id>{id}</report_id>
<date_range><begin>1764288000</begin><end>1764374399</end></date_range></report_metadata>
<policy_published><domain>a.example</domain><p>reject</p></policy_published>
<record><row><source_ip>192.0.2.1</source_ip><count>{count}</count>
<policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><header_from>a.example</header_from></identifiers>
<auth_results><dkim><domain>a.example</domain><selector>s</selector><result>pass</result></dkim>
<spf><domain>b.example</domain><scope>mfrom</scope><result>fail</result></spf></auth_results></record>
</feedback>
"""
for count, (local, host) in enumerate(zip(sys.argv[1:], ("mx1.example.org", "mx2.example.org")), 1):
    mail = email.message.EmailMessage()
    mail["From"], mail["To"] = "dmarc@example.org", "reports@a.example"
    mail["Subject"] = f"Report Domain: a.example Submitter: {host} Report-ID: <{local}@{host}>"
    mail["Date"] = "Sat, 29 Nov 2025 01:00:00 +0000"
    report = REPORT.format(host=host, id=f"{local}@{host}", count=count)
    name = f"{host}!a.example!1764288000!1764374399.xml.gz"
    mail.add_attachment(gzip.compress(report.encode()), maintype="application", subtype="gzip", filename=name)
    print("From x Sat Nov 29 01:00:00 2025", mail, sep="\n")
P
show='import json, sys; print(*((r["report_metadata"]["org_name"], r["report_metadata"]["report_id"], r["records"][0]["count"])
for r in json.load(sys.stdin)["aggregate_reports"]))'
for ids in "1764288000.a.example 1764288000.a.example" "1.a.example 2.a.example"; do
  python3 make.py $ids >mbox
  venv/bin/parsedmarc --offline mbox 2>/dev/null | python3 -c "$show"
done | tee out
cat >seen <<'S'
('example.org', '1764288000.a.example', 1)
('example.org', '1.a.example', 1) ('example.org', '2.a.example', 2)
S
cmp out seen
