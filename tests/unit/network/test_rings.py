"""Rings on meshes of links."""

import pytest

from simulator.network.rings import ring_count
from simulator.network.scaleup import CUBE_MESH_LANES


@pytest.mark.parametrize("ranks", range(3, 8))
def test_full_meshes_fall_into_rings_as_walecki_showed(ranks) -> None:
    """The complete graph of n vertices holds ⌊(n − 1)/2⌋ disjoint Hamiltonian cycles (Walecki, in Lucas 1892)."""
    lanes = tuple(tuple(int(a != b) for b in range(ranks)) for a in range(ranks))
    assert ring_count(lanes) == 2 * ((ranks - 1) // 2)


def test_rings_of_a_hybrid_cube_mesh() -> None:
    """Two ranks use the one lane between them; all eight use all six lanes; the fifth has lanes to the first only."""
    counts = [ring_count(tuple(map(tuple, CUBE_MESH_LANES[:n, :n].tolist()))) for n in range(2, 9)]
    assert counts == [1, 2, 4, 2, 2, 4, 6]


def test_limits() -> None:
    assert ring_count(((0, 3), (3, 0))) == 3
    assert ring_count(((0, 1, 0), (1, 0, 0), (0, 0, 0))) == 0
    with pytest.raises(ValueError, match="at most 8 ranks"):
        ring_count(((0,) * 9,) * 9)
