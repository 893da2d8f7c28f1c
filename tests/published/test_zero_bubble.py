"""Bubble rates of the zero-bubble paper (table 5) from its profiled times (table 9), arXiv 2401.10241.

Rates are printed with four digits. The interleaved rows are exactly p transfers shorter than the Megatron order run
with a transfer on every hop (2(p·v − 1)); the paper does not say which hops it leaves out, so they have a band.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from simulator.strategies.pipeline.one_f_one_b import Interleaved1F1B, OneFOneB
from simulator.strategies.pipeline.zero_bubble import ZBH1, ZBH2, ZB1p, ZB2p
from simulator.training.pipeline import PipelineCosts, run_schedule

# (model, micro-batches): T_F, T_B, T_W, T_comm [ms], table 9
PROFILED = {
    ("GPT-1.5B", 24): (18.522, 18.086, 9.337, 0.601),
    ("GPT-1.5B", 32): (18.513, 18.086, 9.331, 0.626),
    ("GPT-1.5B", 64): (18.546, 18.097, 9.321, 0.762),
    ("GPT-6.2B", 24): (29.718, 29.444, 19.927, 0.527),
    ("GPT-6.2B", 32): (29.802, 29.428, 19.530, 0.577),
    ("GPT-6.2B", 64): (29.935, 29.621, 19.388, 0.535),
    ("GPT-14.6B", 48): (11.347, 11.248, 8.132, 0.377),
    ("GPT-14.6B", 64): (11.307, 11.254, 8.101, 0.379),
    ("GPT-14.6B", 128): (11.325, 11.308, 8.109, 0.378),
    ("GPT-28.3B", 96): (10.419, 10.207, 7.715, 0.408),
    ("GPT-28.3B", 128): (10.408, 10.204, 7.703, 0.408),
    ("GPT-28.3B", 256): (10.402, 10.248, 7.698, 0.460),
}
HIDDEN_HEADS = {
    "GPT-1.5B": (2304, 24),
    "GPT-6.2B": (4096, 32),
    "GPT-14.6B": (5120, 40),
    "GPT-28.3B": (6144, 48),
}  # table 3
SEQUENCE = 1024


@pytest.mark.parametrize(("model", "m"), PROFILED)
def test_table_5(shared: Path, model: str, m: int) -> None:
    rows = yaml.load((shared / "reference" / "published_training.yaml").read_text(), Loader=yaml.CSafeLoader)
    row = next(r for r in rows["bubble_rates"] if (r["model"], r["micro_batches"]) == (model, m))
    p, v, published = row["pp"], row["vpp_for_interleaved"], row["bubble"]
    f, b, w, comm = PROFILED[model, m]
    hidden, heads = HIDDEN_HEADS[model]
    share = 32 * hidden / (34 * hidden + 5 * heads * SEQUENCE)  # M_W / M_B, table 1
    whole, cut = PipelineCosts.uniform(p, f, b, w, comm), PipelineCosts.uniform(p * v, f / v, b / v, w / v, comm)
    schedules = {
        "1F1B": OneFOneB(), "ZB-H1": ZBH1(), "ZB-H2": ZBH2(),
        "ZB-1p": ZB1p().tuned(f, b, w, comm, share), "ZB-2p": ZB2p().tuned(f, b, w, comm, share),
    }  # fmt: skip
    predicted = {name: run_schedule(s, whole, p, m).bubble_over_span for name, s in schedules.items()}
    assert predicted == pytest.approx({name: published[name] for name in schedules}, abs=1.5e-4)
    interleaved = run_schedule(Interleaved1F1B(), cut, p, m, v)
    assert interleaved.bubble_over_span == pytest.approx(published["1F1B-I"], abs=4e-3)
    shorter = interleaved.span.max() - p * comm
    assert 1 - m * (f + b + w) / shorter == pytest.approx(published["1F1B-I"], abs=1.5e-4)
