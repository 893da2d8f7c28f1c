"""What security costs a cluster and its training jobs.

=================  =================================================================================================
key                what it slows, and where the figure is from
=================  =================================================================================================
confidential       everything an accelerator does, by 6 %: the middle of the 4 to 8 % of throughput that Llama 2 lost
                   on an H100 in confidential mode (Chrapek et al., IISWC 2025, arXiv 2509.18886); the loss comes from
                   transfers over the host link and is near zero for large models and long prompts (Zhu et al.,
                   arXiv 2409.03992). ``host_link``: the encrypted bandwidth, which neither abstract states
encrypted_links    the network between nodes, by frame / (frame + overhead); 32 bytes are those of MACsec with
                   explicit channel identifiers (IEEE 802.1AE: a tag of 16 and a check value of 16)
dp_sgd             a training job's computation: one forward (1) and n backward passes (2 each) instead of one, so
                   (1 + 2n) / 3; ghost clipping needs a second one for the norms of single gradients (Li et al.,
                   ICLR 2022). Its memory is not modelled
isolation          containers of functions serve one owner only
=================  =================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from simulator.hardware.types import Accelerator, Cluster, Link, Node
from simulator.scenario.spec_security import SecuritySpec

__all__ = ["link_share", "paced", "private_pace", "secured"]

Changed = Callable[[Accelerator], Accelerator]


def secured(cluster: Cluster, spec: SecuritySpec) -> tuple[Cluster, list[str]]:
    """The cluster as fast as its protection lets it be, and what to tell the user."""
    notes = list[str]()
    if spec.encrypted_links is not None:
        share = link_share(spec)
        groups = tuple(replace(g, node=replace(g.node, nic=_narrowed(g.node.nic, share))) for g in cluster.groups)
        cluster = replace(
            cluster, groups=groups, fabric=replace(cluster.fabric, link=_narrowed(cluster.fabric.link, share))
        )
        notes.append(f"security.encrypted_links: {1 - share:.2%} of the network between nodes carries encryption")
    if (mode := spec.confidential) is not None:
        cluster = paced(cluster, 1.0 - mode.slow_down)
        if mode.host_link is not None:
            limit = mode.host_link
            cluster = _each(cluster, lambda a: replace(a, host_link=_limited(a.host_link, limit)))
        else:
            notes.append("security.confidential.host_link is not given: copies to the host keep their speed")
        notes.append(f"security.confidential: accelerators are taken as {mode.slow_down:.0%} slower in all they do")
    if spec.dp_sgd is not None:
        notes.append(
            f"security.dp_sgd: training computes {1 / private_pace(spec):.3g} times as long "
            f"({spec.dp_sgd.backward_passes} backward passes); its memory is not modelled"
        )
    return cluster, notes


def link_share(spec: SecuritySpec) -> float:
    """Share of a link that is left when every frame carries encryption."""
    links = spec.encrypted_links
    return links.frame / (links.frame + links.overhead) if links is not None else 1.0


def private_pace(spec: SecuritySpec) -> float:
    """Share of its speed that a training job keeps under differential privacy."""
    return 3.0 / (1.0 + 2.0 * spec.dp_sgd.backward_passes) if spec.dp_sgd is not None else 1.0


def paced(cluster: Cluster, pace: float) -> Cluster:
    """The cluster with accelerators that compute and read memory at a share of their speed."""
    if pace == 1.0:
        return cluster
    return _each(cluster, lambda a: replace(a, pace=a.pace * pace, memory_bandwidth=a.memory_bandwidth * pace))


def _each(cluster: Cluster, change: Changed) -> Cluster:
    def node(n: Node) -> Node:
        return replace(n, accelerator=change(n.accelerator))

    return replace(cluster, groups=tuple(replace(g, node=node(g.node)) for g in cluster.groups))


def _narrowed(link: Link, share: float) -> Link:
    return replace(link, efficiency=link.efficiency * share)


def _limited(link: Link, bandwidth: float) -> Link:
    return replace(
        link,
        bandwidth=min(link.bandwidth, bandwidth),
        efficiency=1.0 if bandwidth < link.achievable else link.efficiency,
    )
