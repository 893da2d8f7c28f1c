"""The profiles against the reference facts: figure by figure, and the fits against the measured points."""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.hardware import (
    Accelerator,
    accelerator_names,
    load_accelerator,
    load_cluster,
    load_link,
    load_network,
    load_node,
    node_names,
)

RENAMED = {
    "v100_sxm2_16": "v100-sxm-16gb", "v100_sxm2_32": "v100-sxm-32gb", "a100_sxm_40": "a100-sxm-40gb",
    "a100_sxm_80": "a100-sxm-80gb", "a100_pcie_80": "a100-pcie-80gb", "a800_sxm_80": "a800-sxm-80gb",
    "gb200_gpu": "gb200", "gb300_gpu": "gb300", "rubin_gpu": "rubin", "rtx4090": "rtx-4090", "rtx5090": "rtx-5090",
    "rtx6000_ada": "rtx-6000-ada", "rtx_pro_6000_server": "rtx-pro-6000-server", "tpu_v7x": "tpu-v7",
}  # fmt: skip
NOT_DESCRIBED = {"groq_lpu_v1", "cerebras_wse3"}  # deterministic SRAM machines: a roofline does not describe them
DTYPE = {
    "fp64_tc": "fp64_tensor",
    "fp64_mx": "fp64_tensor",
    "fp32_mx": "fp32_tensor",
    "bfloat16": "bf16",
    "nvfp4": "fp4",
}
NODES = {
    "dgx1_v100": "dgx-1-v100",
    "dgx2": "dgx-2",
}
CLUSTERS = {"fireflyer2": "fire-flyer-2", "bytedance_megascale": "megascale-12k", "xai_colossus": "xai-colossus-100k"}
OPERATIONS = {"alltoall": "all_to_all"}

ELSEWHERE = {"a100-pcie-40gb", "a30", "l40", "mi350x", "p100-sxm", "rtx-3090", "rtx-a6000", "tpu-v3"}
"""Ours with sources of their own, which the file does not describe."""


def our(name: str) -> str:
    return RENAMED.get(name, name.replace("_", "-"))


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


@cache
def _read(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        facts: dict[str, Any] = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return facts


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, Any]:
    return _read(shared / "reference" / "hardware_facts.yaml")


def pairs(facts: dict[str, Any]) -> list[tuple[dict[str, Any], Accelerator]]:
    rows = [row for row in facts["accelerators"] if row["id"] not in NOT_DESCRIBED]
    return [(row, load_accelerator(our(row["id"]))) for row in rows]


def test_every_accelerator_is_described(facts: dict[str, Any]) -> None:
    described = {our(row["id"]) for row in facts["accelerators"]} - {our(n) for n in NOT_DESCRIBED}
    ours = {name for name in accelerator_names() if not name.startswith("cpu-")}  # calibrated here
    assert ours - described == ELSEWHERE
    assert described <= set(accelerator_names())


def test_dense_peaks(facts: dict[str, Any]) -> None:
    for row, ours in pairs(facts):
        told = {DTYPE.get(k, k): v * 1e12 for k, v in row["tflops_dense"].items() if not k.endswith("acc16")}
        half = {k: v for k, v in ours.peak_flops.items() if k.endswith("_half")}  # products summed in 16 bits
        assert all(v == close(row["tflops_dense"][k.replace("_half", "_acc16")] * 1e12) for k, v in half.items())
        assert {k: v for k, v in ours.peak_flops.items() if k not in half} == close(told), row["id"]


def test_memory_cores_clock_power_and_price(facts: dict[str, Any]) -> None:
    for row, ours in pairs(facts):
        assert ours.year == row["year"]
        assert ours.memory_type == row["mem_type"]
        assert ours.memory_capacity == close(row["mem_gb"] * 1e9)
        assert ours.memory_bandwidth == close(row["mem_bw_gbs"] * 1e9)
        assert ours.l2_capacity == close((row["l2_mb"] or 0) * 1e6)
        assert ours.sm_count == (row["sm_or_cores"] or 0)
        assert ours.boost_clock == close((row["boost_mhz"] or 0) * 1e6)
        for told, value, field in (
            (row["tdp_w"], ours.power.peak, "power.peak"), (row["idle_w"], ours.power.idle, "power.idle"),
        ):  # fmt: skip
            assert value == close(told) if told is not None else field in ours.estimated, row["id"]
        price = row.get("price") or {}
        bought, rented = price.get("purchase_usd"), price.get("cloud_usd_per_gpu_h")
        assert ours.price.purchase == (close(tuple(bought)) if bought else None)
        assert ours.price.rental == (close(tuple(p / 3600 for p in rented)) if rented else None)
        assert ours.price.as_of == str(price.get("as_of", ""))


def test_links_are_one_direction(facts: dict[str, Any]) -> None:
    for row, ours in pairs(facts):
        told = row["scale_up"]
        assert ours.scale_up.link.bandwidth == close(told["uni_gbs"] * 1e9)
        assert ours.scale_up.link.bandwidth * 2 == pytest.approx(told["bidir_gbs"] * 1e9, rel=0.01)
        assert ours.scale_up.domain == told["max_domain"]
    generations = {row["id"].replace("_", "-"): row for row in facts["networks"]["links"]}
    for name in (
        "nvlink2",
        "nvlink3",
        "nvlink4",
        "nvlink5",
        "nvlink6",
        "nvlink-c2c",
        "pcie3-x16",
        "pcie4-x16",
        "pcie5-x16",
        "pcie6-x16",
    ):
        assert load_link(name).bandwidth == close(generations[name]["uni_gbs"] * 1e9)
    for name in ("xgmi-mi300x", "xgmi-mi355x"):
        assert load_link(name).bandwidth == close(generations[name]["per_peer_uni_gbs"] * 1e9)
    for name, row in generations.items():
        if name.startswith(("ib-", "roce-")):
            kind, _, speed = name.partition("-")
            ours = f"{speed}{row['gbps']}" if kind == "ib" else f"roce{speed}"
            assert load_link(ours).bandwidth == close(row["gbps"] * 1e9 / 8)


def test_what_was_recalled_is_marked(facts: dict[str, Any]) -> None:
    for row, ours in pairs(facts):
        if row["verified"].startswith("memory"):
            assert {"peak_flops", "memory", "scale_up"} <= set(ours.estimated), row["id"]
        if "idle_w" in row.get("memory_fields", []) and not row["verified"].startswith("memory"):
            assert "power.idle" in ours.estimated
        if (row.get("price") or {}).get("verified", "").startswith("memory"):
            assert "price" in ours.estimated


REFITTED = ("gemm.fp8", "gemm.fp4")
"""Curves that were fitted again to the measured tables: the carried ones hold the cast of their inputs
(docs/decisions/0038)."""


def test_gemm_and_attention_fits_are_carried(facts: dict[str, Any]) -> None:
    for fit in facts["calibration"]["gemm_fit"]["fits"]:
        ours = load_accelerator(our(fit["gpu"])).efficiency
        key = f"gemm.{DTYPE.get(fit['dtype'], fit['dtype'])}"
        if key in REFITTED and not ours[f"{key}.launch"].source.startswith("own fit"):
            continue
        assert ours[f"{key}.launch"].value == close(fit["t0_us"] * 1e-6)
        assert ours[f"{key}.compute"].value == close(fit["eff_flops"])
        assert ours[f"{key}.memory"].value == close(fit["eff_bw"])
        assert ours[f"{key}.sharpness"].value == close(fit["p"])
        # A sigma that holds four of five kernels is wider than the median error (docs/decisions/0017).
        assert ours[f"{key}.memory"].sigma >= fit["err_median"] * (1 - 1e-9)
    for fit in facts["calibration"]["attention_fit"]["fits"]:
        ours = load_accelerator(our(fit["gpu"])).efficiency
        key = f"attention_{fit['op']}.{DTYPE.get(fit['kv'], fit['kv'])}"
        assert ours[f"{key}.launch"].value == close(fit["t0_us"] * 1e-6)
        if fit["op"] == "decode":
            assert ours[f"{key}.memory"].value == close(fit["eff_bw"])
            assert ours[f"{key}.per_sequence_head"].value == close(fit["us_per_seq_kvhead"] * 1e-6)
        else:
            assert ours[f"{key}.compute"].value == close(fit["eff_max"])
            assert ours[f"{key}.half_length"].value == close(fit["half_len"])


def test_gemm_fit_reproduces_the_measured_points(facts: dict[str, Any]) -> None:
    """The fitted form in SI units, on the published subset of shapes: median error as the fit states."""
    rows = facts["calibration"]["gemm"]
    stated = {(f["gpu"], f["dtype"]): f for f in facts["calibration"]["gemm_fit"]["fits"]}
    for key, fit in stated.items():
        if fit["form"] != "plain":
            continue
        device, dtype = load_accelerator(our(key[0])), DTYPE.get(key[1], key[1])
        e = {
            leaf: device.efficiency[f"gemm.{dtype}.{leaf}"].value
            for leaf in ("launch", "compute", "memory", "sharpness")
        }
        wide = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5}[dtype]
        errors = []
        for curve in rows["curves"]:
            if (curve["gpu"], curve["dtype"]) != key:
                continue
            for m, us in zip(rows["m"], curve["us"], strict=True):
                n, k = curve["n"], curve["k"]
                compute = 2 * m * n * k / (e["compute"] * device.peak(dtype))
                memory = ((n * k + m * k) * wide + m * n * 2) / (e["memory"] * device.memory_bandwidth)
                p = e["sharpness"]
                seconds = e["launch"] + (compute**p + memory**p) ** (1 / p)
                assert seconds > max(
                    2 * m * n * k / device.peak(dtype), (n * k + m * k) * wide / device.memory_bandwidth
                )
                if us:
                    errors.append(abs(seconds / (us * 1e-6) - 1))
        assert statistics.median(errors) < 1.6 * fit["err_median"] + 0.03, key


def test_decode_attention_fit_reproduces_the_measured_points(facts: dict[str, Any]) -> None:
    stated = {(f["gpu"], f["kv"]): f for f in facts["calibration"]["attention_fit"]["fits"] if f["op"] == "decode"}
    for row in facts["calibration"]["decode_attention"]["curves"]:
        if row["gpu"] == "l40s":
            continue  # small ones sit in its L2 cache and beat DRAM
        device, dtype = load_accelerator(our(row["gpu"])), DTYPE.get(row["kv"], row["kv"])
        errors = []
        for case, us in row["us"].items():
            batch, length = (int(part[1:]) for part in case.split("_"))
            e = {
                leaf: device.efficiency[f"attention_decode.{dtype}.{leaf}"].value
                for leaf in ("launch", "memory", "per_sequence_head")
            }
            moved = 2 * 8 * 128 * (2 if dtype == "bf16" else 1) * batch * length
            seconds = e["launch"] + moved / (e["memory"] * device.memory_bandwidth) + e["per_sequence_head"] * batch * 8
            errors.append(abs(seconds / (us * 1e-6) - 1))
        assert statistics.median(errors) < 2 * stated[row["gpu"], row["kv"]]["err_median"] + 0.03, row["gpu"]


def test_achieved_matmul_rates(facts: dict[str, Any]) -> None:
    for dtype in ("bf16", "fp8"):
        for gpu, tflops in facts["calibration"]["mamf"][dtype].items():
            device = load_accelerator(our(gpu))
            constant = device.efficiency[f"max_achievable_matmul.{dtype}.compute"]
            assert constant.value * device.peak(dtype) == close(tflops * 1e12)
            assert constant.unit == ""


def test_collective_curves_and_fits(facts: dict[str, Any]) -> None:
    """Points are carried as measured, and the fit over bytes on the wire is as good on them as stated."""
    told = facts["networks"]["nccl_curves"]
    for row in told["curves"]:
        profile = load_network(f"nccl-{our(row['gpu'])}")
        operation, n = OPERATIONS.get(row["op"], row["op"]), row["n"]
        curve = profile.curves[operation][n]
        assert curve.x == tuple(told["bytes"])
        assert curve.seconds == close(tuple(t * 1e-6 for t in row["us"]))
        a, g, b = (profile.constants[f"{operation}.{n}.{leaf}"].value for leaf in ("latency", "sqrt", "per_byte"))
        wire = [x * (n - 1) / n * (2 if operation == "all_reduce" else 1) for x in curve.x]
        worst = max(abs((a + g * v**0.5 + b * v) / t - 1) for v, t in zip(wire, curve.seconds, strict=True))
        assert worst == pytest.approx(row["fit_max_rel_err"], abs=0.015)
        assert profile.constants[f"bus_bandwidth.{operation}.{n}"].value == close(row["busbw_max_gbs"] * 1e9)
        largest = wire[-1] / curve.seconds[-1]
        assert largest == pytest.approx(row["busbw_max_gbs"] * 1e9, rel=0.005, abs=0.55e9)


def test_small_all_reduce_and_expert_curves(facts: dict[str, Any]) -> None:
    kernels = {"vLLM_custom_graph": "custom_all_reduce", "TRTLLM": "trtllm_all_reduce"}
    told = facts["networks"]["custom_allreduce_curves"]
    for row in told["curves"]:
        curve = load_network(f"nccl-{our(row['gpu'])}").curves[kernels[row["kernel"]]][row["n"]]
        assert curve.x == tuple(told["bytes"])
        assert curve.seconds == close(tuple(t * 1e-6 for t in row["us"]))
    for row in facts["networks"]["deepep_intranode_curves"]["curves"]:
        profile, ranks = load_network(f"nccl-{our(row['gpu'])}"), 4 if row["gpu"] == "gb200" else 8
        for way in ("dispatch", "combine"):
            curve = profile.curves[f"expert_{way}_{row['mode']}"][ranks]
            assert curve.x == tuple(row["tokens"])
            assert curve.seconds == close(tuple(t * 1e-6 for t in row[f"{way}_us"]))


def test_nccl_tuner_constants(facts: dict[str, Any]) -> None:
    told, ours = facts["networks"]["nccl_tuner_model"], load_network("nccl-tuner").constants
    for section, name in (("base_latency_us", "base_latency"), ("hw_latency_us", "hardware_latency")):
        stack = [(name, told[section])]
        while stack:
            key, value = stack.pop()
            if isinstance(value, dict):
                stack += [(f"{key}.{k}", v) for k, v in value.items()]
            elif isinstance(value, list):
                assert [ours[f"{key}.{p}"].value for p in ("ll", "ll128", "simple")] == close([v * 1e-6 for v in value])
            else:
                assert ours[key].value == close(value * 1e-6)
    for chip, value in told["nvls_efficiency"].items():
        assert ours[f"nvls_efficiency.{chip}"].value == value
    for chip, values in told["ll_max_bw_gbs"].items():
        if chip != "note":
            found = [ours[f"ll_max_bandwidth.{chip}.{n}"].value for n in ("1_node", "2_nodes", "4_nodes")]
            assert found == close([v * 1e9 for v in values])


def test_nodes(facts: dict[str, Any]) -> None:
    for row in facts["nodes"]:
        node = load_node(NODES.get(row["id"], row["id"].replace("_", "-")))
        trays = row.get("trays", {}).get("compute", 4 if row["id"] == "trn2_ultraserver" else 1)
        assert node.accelerators * trays == row["gpus"], row["id"]
        if row["id"] != "fireflyer2_a100_pcie":  # its note says 40 GB
            assert node.accelerator.name == our(row["gpu"])
        if "host_mem_gb" in row:
            assert node.host_memory * trays == close(row["host_mem_gb"] * 1e9)
        if row.get("nics"):
            compute = row["nics"][0]
            assert node.nics * trays * node.nic.bandwidth == close(compute["n"] * compute["gbps"] * 1e9 / 8), row["id"]
        if "power_w_max" in row:
            assert node.power_peak * trays == pytest.approx(row["power_w_max"], rel=1e-3)
        if "tb" in row.get("nvme", {}) and node.nvme is not None:
            assert node.nvme.capacity == close(row["nvme"]["tb"] * 1e12)
            assert node.nvme.read == close(row["nvme"].get("read_gbs", node.nvme.read / 1e9) * 1e9)
        if "price_usd" in row:
            assert node.price.purchase == pytest.approx([p / trays for p in row["price_usd"]], rel=1e-4)
        if "price_usd_h" in row:
            told = row["price_usd_h"] if isinstance(row["price_usd_h"], list) else [row["price_usd_h"]] * 2
            assert node.price.rental == close([p / 3600 for p in told])
    assert len(facts["nodes"]) < len(node_names())


def test_clusters(facts: dict[str, Any]) -> None:
    for row in facts["clusters"]:
        if row["gpu"] is None:
            continue  # accelerator not published
        cluster = load_cluster(CLUSTERS.get(row["id"], row["id"].replace("_", "-")))
        assert cluster.accelerator_count == row["gpus"]
        assert cluster.node_count == row.get("nodes", cluster.node_count)
        if row["id"] != "fireflyer2":
            assert {g.node.accelerator.name for g in cluster.groups} == {our(row["gpu"])}
