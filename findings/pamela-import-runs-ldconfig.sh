#!/bin/sh
# pamela 1.2.0 (PyPI; PAM by ctypes, as JupyterHub has it): its import looks for libraries with ctypes.util.find_library,
# which on Linux runs "ldconfig -p" and reads all that it prints, a process for each.
#
# Seen: one import starts ldconfig twice. A server that imports it in the child forked for a log-in pays for two programs
# more each time, about half of what a whole check of a password took; one that imports it before it forks pays once.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pamela==1.2.0
cat >show.py <<'P'
import sys

started = []
sys.addaudithook(lambda event, words: started.append(str(words[0])) if event == "subprocess.Popen" else None)
import pamela  # noqa: E402

print(sorted(name.rpartition("/")[2] for name in started if "ldconfig" in name))
P
venv/bin/python show.py | tee out
echo "['ldconfig', 'ldconfig']" | cmp - out
