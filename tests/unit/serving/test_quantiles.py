import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.serving import quantiles
from simulator.serving.quantiles import segment_mean, segment_quantiles

SEGMENT = st.tuples(
    st.floats(0, 10, allow_subnormal=False), st.floats(-0.01, 0.5), st.integers(0, 30), st.integers(0, 5)
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(SEGMENT, min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_those_of_the_written_out_values(rows: list[tuple[float, float, int, int]], share: float) -> None:
    values = np.array([b + s * i for b, s, n, w in rows for i in range(n) for _ in range(w)])
    # The search by halving must give the same as sorting everything.
    for limit in (1, quantiles._SORT_BELOW):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantiles, "_SORT_BELOW", limit)
            found = segment_quantiles(np.array(rows, dtype=float), [share])[0]
        if not len(values):
            assert math.isnan(found)
        else:
            assert found == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=1e-9, abs=1e-9)
    if len(values):
        assert segment_mean(np.array(rows, dtype=float)) == pytest.approx(values.mean())
