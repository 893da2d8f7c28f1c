"""The cases: each is set up, run once, and timed in CPU seconds, those of its child processes included.

``python benchmarks/cases.py [PART OF A NAME]`` runs them once with the simulator that ``PYTHONPATH`` names.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.scenario.sweep_points import Depth

TRACE = Path(__file__).resolve().parents[2] / "shared/traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"

Work = Callable[[], object]


def step(name: str) -> Work:
    """One training step of a shipped scenario, prices and interval included, nothing cached."""
    import simulator
    from simulator.training.step import estimate_step

    scenario = simulator.load(name)
    job = scenario.training[0]
    return lambda: estimate_step(job, scenario.cluster_of(job.name))


def pipeline(schedule: str, ranks: int, microbatches: int, chunks: int) -> Work:
    """The pipeline executor alone."""
    from simulator.registry import lookup
    from simulator.training.pipeline import PipelineCosts, run_schedule

    made = lookup("pipeline", schedule)()
    costs = PipelineCosts.uniform(ranks * chunks, p2p=0.1)
    return lambda: run_schedule(made, costs, ranks, microbatches, chunks).makespan


def serve(requests: int, replicas: int) -> Work:
    """Requests through replicas of Llama-3-70B on 8 H100 each, simulation only."""
    import simulator
    from simulator.cluster.run import run_cluster

    scenario = simulator.load(
        "llama3-70b-chat",
        (f"workloads.chat.requests.count={requests}", f"workloads.chat.deployment.replicas={replicas}",
         f"cluster.nodes.count={replicas}", f"workloads.chat.requests.rate={1.4 * replicas} /s"),
    )  # fmt: skip
    return lambda: run_cluster(scenario)


def fat_tree(accelerators: int) -> Work:
    """An all-reduce over every accelerator of a three-level fat-tree, topology built anew."""
    from simulator.engine.clock import Clock
    from simulator.hardware.profiles import load_link, load_node
    from simulator.hardware.types import Cluster, Fabric, NodeGroup
    from simulator.network.collectives import collective_flow
    from simulator.network.fabric import Fabric as SharedFabric
    from simulator.network.topology import build

    node = load_node("dgx-h100")
    fabric = Fabric("fat-tree", load_link("ndr400"), 1.0, (("levels", 3),))
    cluster = Cluster("c", (NodeGroup(node, accelerators // 8),), fabric)

    def work() -> float:
        clock = Clock()
        topology = build(cluster)
        flow = collective_flow(topology, "all_reduce", 1e9, range(accelerators))
        clock.run(SharedFabric(clock, topology).transfer(flow.way, flow.size))
        return clock.now

    return work


def concurrent_collectives(count: int) -> Work:
    """Rings of random groups of 16 of 4,096 accelerators on an oversubscribed fat-tree, all at once, to the last."""
    import numpy as np

    from simulator.engine.clock import Clock
    from simulator.hardware.profiles import load_link, load_node
    from simulator.hardware.types import Cluster, Fabric, NodeGroup
    from simulator.network.collectives import collective_flow
    from simulator.network.fabric import Fabric as SharedFabric
    from simulator.network.topology import build

    fabric = Fabric("fat-tree", load_link("ndr400"), 2.0, (("levels", 3),))
    topology = build(Cluster("c", (NodeGroup(load_node("dgx-h100"), 512),), fabric))
    rng = np.random.default_rng(0)
    groups = [rng.choice(topology.accelerator_count, 16, replace=False).tolist() for _ in range(count)]
    sizes = rng.uniform(1e8, 1e9, count).tolist()

    def work() -> float:
        clock = Clock()
        shared = SharedFabric(clock, topology)
        for group, size in zip(groups, sizes, strict=True):
            flow = collective_flow(topology, "all_reduce", size, group)
            shared.transfer(flow.way, flow.size)
        clock.run()
        return clock.now

    return work


def contending_jobs(jobs: int) -> Work:
    """Fine-tunes of 4 nodes each on one oversubscribed fat-tree, asynchronous checkpoints, one day."""
    import simulator
    from simulator.cluster.run import run_cluster

    work = [
        {"training": f"job{j}", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "steps": 1_000_000,
         "batch": {"global_batch_size": 32, "sequence_length": 2048}, "nodes": 4, "checkpoint": {"every": "30 min"},
         "plan": {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 8, "zero_stage": 1}}
        for j in range(jobs)
    ]  # fmt: skip
    fabric = {"topology": "fat-tree", "oversubscription": 8.0, "options": {"nodes_per_leaf": 3}}
    cluster = {"nodes": {"profile": "dgx-h100", "count": 4 * jobs}, "fabric": fabric}
    scenario = simulator.load({"cluster": cluster, "workloads": work, "until": "1 d"})
    return lambda: run_cluster(scenario)


def failing_job() -> Work:
    """54 days of one job on 16,384 H100 with the failures of Llama 3, step estimate included."""
    import simulator
    from simulator.cluster.run import run_cluster

    plan = {"tensor_parallel": 8, "sequence_parallel": True, "context_parallel": 2, "pipeline_parallel": 16,
            "data_parallel": 64, "zero_stage": 1}  # fmt: skip
    job = {"training": "pretrain", "model": "llama-3.1-405b", "framework": "megatron-core-0.8", "nodes": 2048,
           "batch": {"global_batch_size": 2048, "sequence_length": 8192}, "steps": 10_000_000, "plan": plan,
           "checkpoint": {"every": "30 min", "to": "tectonic"}}  # fmt: skip
    document = {"cluster": {"profile": "meta-24k-roce"}, "workloads": [job], "failures": "llama3-2024", "until": "54 d"}
    scenario = simulator.load(document)
    return lambda: run_cluster(scenario)


def sweep_of(depth: Depth, *alternatives: str) -> Work:
    """Every point of a sweep on two processes, from a cold start of the pool."""
    from simulator.scenario.sweep import sweep

    return lambda: sweep("llama3-70b-chat", alternatives, depth=depth, jobs=2)


def recommendation() -> Work:
    """Hardware and layout for 50 chats per second, as a buyer asks."""
    from simulator.scenario.recommend import recommend

    return lambda: recommend("which-gpu-for-chat", jobs=2)


def week(*changes: str) -> Work:
    """The shipped week of a shared cluster: pre-training, fine-tunes, chat, failures."""
    import simulator
    from simulator.cluster.run import run_cluster

    scenario = simulator.load("shared-week", changes)
    return lambda: run_cluster(scenario)


def generated_philly(queue: str) -> Work:
    """As many jobs as Philly's trace, drawn from its published laws, on 2,490 accelerators."""
    from simulator.cluster.queue_run import run_queue
    from simulator.registry import lookup
    from simulator.workload.job_mixes import load_mix

    jobs = load_mix("philly-2017").sample(1, count=82_247)
    sizes = [8] * 311 + [2]
    return lambda: run_queue(jobs, sizes, lookup("job_queue", queue)(), lookup("placement", "best-fit")())


PHILLY = Path(__file__).resolve().parents[2] / "shared/traces/philly_2017/philly.csv.gz"


def philly(queue: str, nodes: int, last: int = 0) -> Work:
    """The 82,247 jobs of Philly on nodes of 8, and one more of ``last`` accelerators; reading included."""
    from simulator.cluster.queue_run import run_queue
    from simulator.registry import lookup
    from simulator.workload.job_traces import read_jobs

    sizes = [8] * nodes + [last] * bool(last)
    return lambda: run_queue(
        read_jobs(PHILLY), sizes, lookup("job_queue", queue)(), lookup("placement", "best-fit")()
    )  # fmt: skip


def process(*arguments: str) -> Work:
    """A whole command, interpreter and imports included."""
    command = [sys.executable, "-m", "simulator.cli", *arguments]
    return lambda: subprocess.run(command, check=True, capture_output=True)


CASES: dict[str, Callable[[], Work]] = {
    "step: GPT-3 175B on 64 A100, interval included": lambda: step("gpt3-175b-selene"),
    "step: GPT 1T on 3,072 A100, interval included": lambda: step("gpt-1t-selene"),
    "pipeline: 1T, 64 ranks, 512 micro-batches, interleaved": lambda: pipeline("interleaved-1f1b", 64, 512, 2),
    "pipeline: 1f1b, 4,096 actions": lambda: pipeline("1f1b", 4, 512, 1),
    "serving: 19,366 requests like Azure, 1 replica": lambda: serve(19366, 1),
    "serving: 19,366 requests like Azure, 8 replicas": lambda: serve(19366, 8),
    "network: all-reduce over 16,384 GPUs, fat-tree": lambda: fat_tree(16384),
    "network: 1,000 concurrent collectives": lambda: concurrent_collectives(1000),
    "cluster: 8 jobs share a spine for a day": lambda: contending_jobs(8),
    "cluster: 54 days of 16,384 GPUs with failures": failing_job,
    "cluster: one shared week of 1,024 GPUs, 605,491 requests": week,
    "cluster: 82,247 jobs like Philly on 2,490 GPUs, FIFO": lambda: generated_philly("fifo"),
    "cluster: 82,247 jobs like Philly on 2,490 GPUs, Sia": lambda: generated_philly("sia"),
    "process pool: sweep of 1,000 estimate points": lambda: sweep_of(
        "estimate", "workloads.chat.deployment.plan.tp=1,2,4,8", "workloads.chat.deployment.max_num_seqs=8:2000:8"
    ),
    "process pool: sweep of 200 serving runs of 5,000 requests": lambda: sweep_of(
        "run",
        "workloads.chat.requests.count=5000",
        "workloads.chat.requests.rate=2 /s,4 /s,6 /s,8 /s,10 /s",
        "seed=1:10",
        "workloads.chat.deployment.replicas=1:4",
    ),
    "process pool: recommend, 4 GPUs x 4 layouts": recommendation,
    "process: fmsim --help": lambda: process("--help"),
    "process: fmsim run quickstart": lambda: process("run", "quickstart"),
}
if PHILLY.is_file():
    CASES["cluster: Philly, 82,247 jobs on 2,490 GPUs, FIFO"] = lambda: philly("fifo", 311, 2)
    CASES["cluster: Philly, 82,247 jobs on 480 GPUs, backfill"] = lambda: philly("backfill", 60)
if TRACE.is_file():
    CASES["process: fmsim run, Azure trace on 4 x 8 H100"] = lambda: process(
        "run", "llama3-70b-chat", "-s", f"workloads.chat.requests.trace={TRACE}"
    )


def cpu_seconds() -> float:
    """Of this process and of children that have ended."""
    mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


def timed(name: str) -> float | None:
    """CPU seconds of a case; None where an older commit lacks what it needs."""
    try:
        work = CASES[name]()
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    begin = cpu_seconds()
    work()
    return cpu_seconds() - begin


def warm() -> None:
    """Leave bytecode of everything that is imported, and the kernels, compiled."""
    import simulator
    from simulator.cluster.run import run_cluster
    from simulator.registry import load_all

    load_all()
    run_cluster(simulator.load("quickstart"))
    with suppress(ImportError):
        import simulator.serving.compiled.loop
    serve(200, 1)()  # the kernels are there: it takes them


def main() -> None:
    """Seconds of one case, or of those whose name contains the first argument, as JSON."""
    match sys.argv[1:]:
        case ["--warm"]:
            warm()
        case ["--case", name]:
            print(json.dumps(timed(name)))
        case arguments:
            print(json.dumps({name: timed(name) for name in CASES if "".join(arguments[:1]) in name}))


if __name__ == "__main__":
    main()
