"""All benchmarks with one command, alone or beside an earlier commit.

``python -m benchmarks`` prints every case: median of five, seconds. ``python -m benchmarks --against HEAD~1`` checks
that commit out beside this tree, runs both in turn (A B A B …, so that a busy machine slows both alike) and prints the
ratio. ``--only pattern`` picks cases.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5


def measure(tree: Path, only: str) -> dict[str, float]:
    """Seconds of every case, once, in a fresh process that imports the simulator of ``tree``."""
    command = [sys.executable, str(ROOT / "benchmarks" / "cases.py"), only]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {name: float(seconds) for name, seconds in json.loads(done.stdout).items()}


def main() -> None:
    """Run, and print one line per case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--against", metavar="REV", help="an earlier commit to compare with")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only cases whose name contains this")
    options = parser.parse_args()
    trees = {"now": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        if options.against:
            trees["before"] = Path(folder) / "before"
            add = ["git", "worktree", "add", "--detach", "--quiet", str(trees["before"]), options.against]
            subprocess.run(add, cwd=ROOT, check=True)
        try:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
            for turn in range(REPEATS):
                for name, tree in trees.items():
                    print(f"\rround {turn + 1} of {REPEATS}, {name}   ", end="", file=sys.stderr, flush=True)
                    runs[name].append(measure(tree, options.only))
        finally:
            if options.against:
                remove = ["git", "worktree", "remove", "--force", str(trees["before"])]
                subprocess.run(remove, cwd=ROOT, check=False)
    print(file=sys.stderr)
    report(runs)


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    """Medians, and the median of the ratios round by round."""
    for case in runs["now"][0]:
        now = [r[case] for r in runs["now"]]
        line = f"{case:<58}{median(now):>10.4f} s"
        before = [r[case] for r in runs.get("before", []) if case in r]
        if before:
            ratio = median(a / b for a, b in zip(now, before, strict=True))
            line += f"{median(before):>10.4f} s before, ratio {ratio:.2f}"
        print(line)


if __name__ == "__main__":
    main()
