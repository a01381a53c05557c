#!/bin/sh
# logwatch 7.7 (Debian's logwatch_7.7-1_all.deb), scripts/services/qmail-smtpd: which lines it lists as unmatched depends
# on their first character. The script asks `$ThisLine != ""`, and != compares numbers in Perl: a line that begins with a
# letter is 0, as the empty string is, and is passed over; one that begins with a digit is counted. So the same entry is
# silent with multilog's stamp (@4000...) or a program name in front, and "unmatched" with svlogd's (2026-11-28_...).
#
# Seen: two lines of one text, one with a date in front; only that one stands under "Unmatched Entries".
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q logwatch=7.7-1 >/dev/null 2>&1 || apt-get download -q logwatch >/dev/null 2>&1
dpkg -x logwatch_*.deb root
script=root/usr/share/logwatch/scripts/services/qmail-smtpd
printf '%s\n' '2026-11-28_10:00:00.0 qmail-smtpd: something new' 'qmail-smtpd: something new' |
  PERL5LIB=root/usr/share/logwatch/lib LOGWATCH_DETAIL_LEVEL=10 perl "$script" >out
cat out
grep -q '2026-11-28_10:00:00.0 qmail-smtpd: something new' out && [ "$(grep -c 'something new' out)" = 1 ]
