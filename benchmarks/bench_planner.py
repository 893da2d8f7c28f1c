"""Plans per second of an exhaustive search: GPT-3 175B on 1,024 A100, ``python benchmarks/bench_planner.py``.

One core. Plans whose degrees or schedule do not work are counted apart, so that the figure is of plans that had to be
priced. The peak of resident memory shows that it does not grow with the number of plans.
"""

from __future__ import annotations

import resource
from statistics import median
from time import process_time

from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.strategies.planner.exhaustive import Exhaustive
from simulator.strategies.planner.problem import PlanProblem
from simulator.training.plan_evaluator import PlanEvaluator
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch
from simulator.workload.model_files import load_model

RUNS = 3


def problem(scale: int) -> PlanProblem:
    """The search space; ``scale`` multiplies it by further precisions."""
    cluster = Cluster(
        "a100", (NodeGroup(load_node("dgx-a100-640"), 128),), Fabric("single-switch", load_link("hdr200"))
    )
    return PlanProblem(
        load_model("gpt3-175b"),
        load_framework("megatron-core-0.8"),
        cluster,
        Batch(1536, 1, 2048),
        tensor_parallel=(1, 2, 4, 8, 16),
        pipeline_parallel=(1, 2, 4, 8, 16, 32, 64),
        micro_batch_size=(1, 2, 4, 8, 16),
        virtual_stages=(1, 2, 3, 4, 6, 12),
        schedule=("1f1b", "gpipe", "interleaved-1f1b", "zb-h1", "breadth-first"),
        zero_stage=(0, 1, 2, 3),
        precision=("bf16", "fp16")[:scale],
    )


def main() -> None:
    """Print one line per size of the space."""
    for scale in (1, 2):
        space, times = problem(scale), []
        for _ in range(RUNS):
            evaluate = PlanEvaluator(space.model, space.framework, space.cluster, space.batch)
            begin = process_time()
            found = Exhaustive().search(space, evaluate)
            times.append(process_time() - begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        priced = found.considered - found.reasons["sizes"]
        print(
            f"{found.considered:7d} plans, {priced:6d} with sizes that work, {found.evaluated:4d} run in full: "
            f"{median(times):6.1f} s, peak {peak:5.0f} MiB; best {found.best[0]} {found.best[1].seconds:.2f} s"
        )


if __name__ == "__main__":
    main()
