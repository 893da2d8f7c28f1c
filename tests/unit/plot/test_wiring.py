"""Pictures and tables of how a cluster is wired."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib
import pytest

from simulator.cli import main
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.network.topology import Topology, build
from simulator.plot.wiring import topology_diagram
from simulator.report.wiring import link_classes, link_table

matplotlib.use("Agg")


def wired(topology: str, nodes: int, ratio: float = 1.0, **options: object) -> Topology:
    fabric = Fabric(topology, load_link("ndr400"), ratio, tuple(options.items()))
    return build(Cluster("c", (NodeGroup(load_node("dgx-h100"), nodes),), fabric))


def texts(topology: Topology) -> str:
    import matplotlib.pyplot as plt

    ax = topology_diagram(topology)
    found = " ".join([*(t.get_text() for t in ax.texts), ax.get_title(loc="left")])
    plt.close("all")
    return found


def test_tiers_are_counted_and_their_ratio_is_said() -> None:
    found = texts(wired("fat-tree", 128, 2.0, radix=16, levels=3))
    for text in ("128 × node", "128 × leaf", "64 × spine", "32 × core", "oversubscribed 2 : 1", "1,024 accelerators"):
        assert text in found


@pytest.mark.parametrize(
    ("topology", "nodes", "options", "text"),
    [
        ("torus", 8, {"shape": [2, 2, 2]}, "8 switches with 1 node each"),
        ("torus", 128, {"shape": [4, 4, 8], "twisted": True}, "those of short rows with a shift"),
        ("dragonfly", 36, {"ports_per_router": 4}, "9 groups of switches with 4 nodes each"),
        ("single-switch", 4, {}, "4 × node"),
    ],
)
def test_flat_fabrics_are_graphs(topology, nodes, options, text) -> None:
    assert text in texts(wired(topology, nodes, **options))


def test_sites_say_what_is_there_and_what_joins_them() -> None:
    wan = {"wan_bandwidth": "100 Gb/s", "wan_latency": "5 ms"}
    found = texts(wired("multi-site", 3, sites=[2, 1], **wan))
    for text in ("2 sites with 1 to 2 nodes each", "site0\n2 nodes", "site1\n1 node", "12.5 GB/s\n5 ms"):
        assert text in found


def test_routers_of_one_group_are_named_without_it() -> None:
    found = texts(wired("dragonfly", 12))
    assert "router3" in found
    assert "group0/router3" not in found


def test_every_link_is_named_once_and_classes_add_up() -> None:
    t = wired("rail-optimized", 4)
    table = link_table(t)
    assert len(set(table["link"])) == len(t.links)
    assert sum(row["links"] for row in link_classes(t)) == len(t.links)
    assert sum(row["total"] for row in link_classes(t)) == pytest.approx(t.links.capacity.sum())


def test_the_command_writes_pictures_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "gpt3-175b-selene"
    for file in ("net.png", "net.csv"):
        assert main(["show", "topology", name, "-o", str(tmp_path / file)]) == 0
    with (tmp_path / "net.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert {"link", "from", "to", "bandwidth [B/s]"} <= set(rows[0])
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert main(["show", "topology", name]) == 0
    assert main(["show", "topology"]) == 2
    assert main(["show", "topology", name, "-o", "net.txt"]) == 2
    capsys.readouterr()
