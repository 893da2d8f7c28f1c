"""How far a replay of each of Vidur's 82 reference runs is from Vidur, request by request.

Run as ``python benchmarks/vidur_replay.py [part of a name]``. Needs ``../shared/reference/vidur``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "published"))

from vidur_tables import replay, summary  # noqa: E402


def main() -> None:
    folder = ROOT.parent / "shared/reference/vidur"
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f"{'run':50s} {'max|dTTFT|':>11s} {'max|dE2E|':>11s} {'rel E2E p50':>11s} {'their replay':>12s} restarts")
    for name, facts in summary(folder).items():
        if wanted in name:
            result = replay(folder, name)
            relative = float(np.median(np.abs(result.e2e) / result.e2e_vidur))
            ttft, e2e = np.abs(result.ttft).max(), np.abs(result.e2e).max()
            theirs = facts["replay_max_de2e_s"] or "-"
            ours = int(result.run.preemptions.sum())
            restarts = f"{facts['restarts']}/{ours}"
            print(f"{name:50s} {ttft:11.3g} {e2e:11.3g} {relative:11.2g} {theirs:>12s} {restarts}", flush=True)


if __name__ == "__main__":
    main()
