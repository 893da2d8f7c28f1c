"""All benchmarks with one command, alone or beside an earlier commit.

``python -m benchmarks`` prints CPU seconds of every case; ``python -m benchmarks --against HEAD~1`` also those of that
commit, and the ratio with its spread: the median, the least and the greatest of the rounds. Every measurement is a
process of its own; of a case first one tree, then the other, so that a busy machine slows both alike. CPU seconds count
those of child processes, and leave out imports unless the case is a whole command; bytecode and kernels are compiled
beforehand, as for a user's second command.

The first round is over all cases; the time that is left of ``--minutes`` goes to further ones, the cheapest cases
first, up to ``--rounds``. How many there were is printed: of a case with one round nothing is known but its order of
magnitude. ``slower`` and ``faster`` stand where three rounds or more agree on more than 5 %.

Each measurement is kept in ``runs/benchmarks`` as soon as it is there. The same command goes on where it was
interrupted, and adds to what it has where it is called with more rounds; another state of the sources begins anew,
``--fresh`` too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.cases import CASES
from benchmarks.rounds import Journal, ratios, run_rounds

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("simulator", "hardware_profiles", "workloads", "scenarios")
CLEAR, SURE = 0.05, 3
"""How far off 1 the ratios of all rounds are, and how many rounds there are, where we say slower or faster."""


class Bench:
    """Measures cases in trees: processes that import the simulator of one of them."""

    def __init__(self, trees: dict[str, Path], folder: Path) -> None:
        self.trees, self._folder = trees, folder

    def warm(self) -> None:
        """Compile bytecode and kernels of every tree."""
        for tree in self.trees:
            self._call(tree, "--warm")

    def measure(self, tree: str, case: str) -> float | None:
        """CPU seconds of a case; None where the tree lacks what it needs."""
        found = json.loads(self._call(tree, "--case", case).splitlines()[-1])
        return None if found is None else float(found)

    def _call(self, tree: str, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / "benchmarks" / "cases.py"), *arguments]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {
            "PYTHONPATH": str(self.trees[tree]),
            "PYTHONPYCACHEPREFIX": str(self._folder / f"{tree}-bytecode"),
        }
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} in {self.trees[tree]}:\n{done.stderr}")
        return done.stdout


@contextmanager
def checked_out(against: str) -> Iterator[tuple[dict[str, Path], Path]]:
    """The trees to measure, and a folder for what they leave behind."""
    with tempfile.TemporaryDirectory(prefix="fmsim-benchmarks-") as name:
        folder, trees = Path(name), {"now": ROOT}
        if against:
            trees["before"] = folder / "before"
            trees["before"].mkdir()
            archive = subprocess.run(["git", "archive", against], cwd=ROOT, capture_output=True, check=False)
            if archive.returncode:
                raise SystemExit(archive.stderr.decode())
            subprocess.run(["tar", "-x", "-C", str(trees["before"])], input=archive.stdout, check=True)
        yield trees, folder


def digest(tree: Path) -> str:
    """Of all sources and data of a tree."""
    found = hashlib.sha256(sys.version.encode())
    files = (p for part in SOURCES for p in (tree / part).rglob("*") if p.is_file() and p.suffix != ".pyc")
    for path in sorted(files):
        found.update(str(path.relative_to(tree)).encode())
        found.update(path.read_bytes())
    found.update((ROOT / "benchmarks" / "cases.py").read_bytes())
    return found.hexdigest()[:12]


def report(journal: Journal, cases: list[str], against: str) -> Iterator[str]:
    """A line per case."""
    for case in cases:
        seconds = {tree: [m.seconds for m in journal.of(case, tree) if m.seconds] for tree in ("now", "before")}
        if not seconds["now"]:
            continue
        now = seconds["now"]
        line = f"{case:<58}{median(now):>9.3f} s"
        found = ratios(journal, case, "now", "before")
        if against and found:
            low, high = min(found), max(found)
            sure = len(found) >= SURE
            verdict = "slower" if sure and low > 1 + CLEAR else "faster" if sure and high < 1 - CLEAR else ""
            line += f"{median(seconds['before']):>9.3f} s before, ratio {median(found):5.2f} ({low:.2f} to {high:.2f})"
            line += f", {len(found)} rounds {verdict}"
        else:
            line += f" ({min(now):.3f} to {max(now):.3f}), {len(now)} rounds"
        yield line.rstrip()


def main() -> None:
    """Run, and print one line per case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default="", metavar="REV", help="an earlier commit to compare with")
    parser.add_argument("--cases", default="", metavar="PATTERN", help="only cases whose name matches this expression")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="most rounds of a case (default 5)")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for rounds beyond the first (default 9)")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run of these trees has measured")
    options = parser.parse_args()
    cases = [case for case in CASES if re.search(options.cases, case)]
    if not cases:
        raise SystemExit(f"no case matches '{options.cases}'; there are:\n  " + "\n  ".join(CASES))

    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def say(text: str) -> None:
        print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="", file=sys.stderr, flush=True)
        if not sys.stderr.isatty():
            print(file=sys.stderr)

    with checked_out(options.against) as (trees, folder):
        name = "-".join(digest(tree) for tree in trees.values())
        journal = Journal.open(ROOT / "runs" / "benchmarks" / f"{name}.jsonl", options.fresh)
        bench = Bench(trees, folder)
        try:
            say("compiling what is compiled once")
            bench.warm()
            run_rounds(cases, list(trees), options.rounds, 60 * options.minutes, journal, bench.measure, say)
        except KeyboardInterrupt:
            say("interrupted: the same command goes on from here\n")
        else:
            say("")
    print("\n".join(report(journal, cases, options.against)))


if __name__ == "__main__":
    main()
