"""`python -m tests.cluster [--short]`: the proof that nothing is lost, as root, on this machine; 0 if nothing was.

It goes into a network namespace of its own, where the nodes are three more, each with its own processes.
"""

import argparse
import os
import sys
import time

from tests.cluster.story import tell_short, tell_whole

INSIDE = "--inside"


def main(words: list[str]) -> int:
    """Tell what happens, and count."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="Three nodes behind HAProxy take mail while a node dies for good, the primary database fails over,"
        " Redis dies, and a node is cut off and comes back; then each accepted message is looked for.",
    )
    parser.add_argument("--short", action="store_true", help="a node that dies and a failover alone: what CI runs")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", "tests.cluster", INSIDE, *words])
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    report = tell_short(tell) if options.short else tell_whole(tell)
    tell(f"accepted for {report.deliveries} recipients, by {dict(sorted(report.nodes.items()))}")
    tell(f"lost: {len(report.lost)}")
    for why, count in report.explained.items():
        tell(f"too many: {count}, {why}")
    tell(f"too many and not explained: {len(report.unexplained)}")
    return 1 if report.lost or report.unexplained or not report.deliveries else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
