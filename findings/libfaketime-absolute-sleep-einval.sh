#!/bin/sh
# libfaketime 0.9.10 (Debian's libfaketime_0.9.10-2.1) and CPython 3.11 (Debian 12): time.sleep() raises EINVAL.
#
# CPython sleeps by clock_nanosleep(2) until a moment of CLOCK_MONOTONIC (TIMER_ABSTIME) since 3.11. libfaketime answers
# such a call with EINVAL when it is told to leave that clock alone (DONT_FAKE_MONOTONIC=1), as daemons under test want,
# whether the time it shows is ahead or behind. Without the variable the sleep is right, and waits with a timeout, for a
# threading.Lock, say, do not end.
#
# Seen: "OSError: [Errno 22] Invalid argument" twice, and "slept".
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q libfaketime=0.9.10-2.1 >/dev/null 2>&1
dpkg -x libfaketime_*.deb root
library=$(echo root/usr/lib/*/faketime/libfaketime.so.1)
[ -e "$library" ]
under() {
  env "$@" LD_PRELOAD="$PWD/$library" /usr/bin/python3 -c '
import time
try:
    time.sleep(0.1)
    print("slept")
except OSError as error:
    print("OSError:", error)'
}
[ "$(/usr/bin/python3 -c 'import sys; print(sys.version_info >= (3, 11))')" = True ]
ahead=$(under FAKETIME=+15m DONT_FAKE_MONOTONIC=1)
behind=$(under FAKETIME=-15m DONT_FAKE_MONOTONIC=1)
both=$(under FAKETIME=+15m)
printf '%s\n' "$ahead" "$behind" "$both"
error='OSError: [Errno 22] Invalid argument'
[ "$ahead" = "$error" ] && [ "$behind" = "$error" ] && [ "$both" = slept ]
