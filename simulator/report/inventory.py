"""What can be named in a scenario, as rows for ``fmsim list`` and ``fmsim show``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from simulator import data, registry
from simulator.errors import ConfigError, unknown_name
from simulator.units import format_quantity as fmt
from simulator.yaml_marks import load_yaml

__all__ = ["facts_of", "rows_of", "strategy_rows"]

Row = dict[str, Any]

_AREAS = ("training", "serving", "cluster")
_FOLDERS = {
    "models": "workloads/models", "accelerators": "hardware_profiles/accelerators", "nodes": "hardware_profiles/nodes",
    "clusters": "hardware_profiles/clusters", "networks": "hardware_profiles/networks",
    "frameworks": "workloads/frameworks", "scenarios": "scenarios", "requests": "workloads/requests",
}  # fmt: skip


def strategy_rows(area: str | None) -> list[Row]:
    """The full record of every registered strategy.

    Raises
    ------
    ConfigError
        If there is no such area.
    """
    if area is not None and area not in _AREAS:
        raise ConfigError(unknown_name("area", area, _AREAS))
    order = ("name", "area", "family", "kind", "validated_by", "summary", "catalogue", "cites", "claims")
    records = (record.to_dict() for record in registry.strategies(area=area))
    return [{key: record[key] for key in order} for record in records]


def rows_of(kind: str) -> list[Row]:
    """Names with the few figures by which people choose."""
    if kind == "topologies":
        from simulator.network.wiring import topology_class, topology_names

        return [{"name": n, "summary": _first_line(topology_class(n))} for n in topology_names()]
    describe: dict[str, Callable[[str], Row]] = {
        "models": _model, "accelerators": _accelerator, "nodes": _node, "clusters": _cluster, "networks": _network,
        "frameworks": _framework, "scenarios": _scenario, "requests": _requests,
    }  # fmt: skip
    return [{"name": name, **describe[kind](name)} for name in data.names(_FOLDERS[kind])]


def _first_line(item: object) -> str:
    return (item.__doc__ or "").strip().split("\n", 1)[0]


def _model(name: str) -> Row:
    from simulator.workload.counting import active_parameters, parameters
    from simulator.workload.model_files import load_model

    model = load_model(name)
    total, active = parameters(model), active_parameters(model)
    return {
        "family": model.family,
        "parameters": f"{total / 1e9:.4g} B",
        "active": "" if active == total else f"{active / 1e9:.4g} B",
        "layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
    }


def _accelerator(name: str) -> Row:
    from simulator.hardware.profiles import load_accelerator

    a = load_accelerator(name)
    best = next((t for t in ("bf16", "fp16", "fp32") if t in a.peak_flops), "")
    return {
        "vendor": a.vendor,
        "year": a.year,
        "dense": f"{fmt(a.peak_flops[best], 'compute_rate')} {best}" if best else "",
        "memory": f"{a.memory_capacity / 1e9:g} GB",
        "bandwidth": fmt(a.memory_bandwidth, "bandwidth"),
        "power": fmt(a.power.peak, "power", 4),
    }


def _node(name: str) -> Row:
    from simulator.hardware.profiles import load_node

    n = load_node(name)
    ports = f"{n.nics} x {n.nic.bandwidth * 8 / 1e9:g} Gb/s" if n.nics else ""
    return {
        "accelerators": f"{n.accelerators} x {n.accelerator.name}",
        "network": ports,
        "power": fmt(n.power_peak, "power", 4),
    }


def _cluster(name: str) -> Row:
    from simulator.hardware.profiles import load_cluster

    c = load_cluster(name)
    nodes = " + ".join(f"{g.count} x {g.node.name}" for g in c.groups)
    return {"nodes": nodes, "accelerators": c.accelerator_count, "topology": c.fabric.topology}


def _network(name: str) -> Row:
    from simulator.hardware.profiles import load_network

    n = load_network(name)
    speed = f"{n.link.bandwidth / 1e9:g} GB/s" if n.link.name else ""
    return {"scope": n.scope, "bandwidth": speed, "accelerator": n.accelerator}


def _framework(name: str) -> Row:
    from simulator.workload.framework_files import load_framework

    f = load_framework(name)
    return {"area": f.area, "version": f.version, "attention": f.attention_kernel}


def _scenario(name: str) -> Row:
    path = data.find_file("scenarios", name, "scenario")
    lines = path.read_text(encoding="utf-8").splitlines()
    return {"question": lines[0].lstrip("# ") if lines and lines[0].startswith("#") else ""}


def _requests(name: str) -> Row:
    node = load_yaml(data.find_file("workloads/requests", name, "request workload"))
    about = node.child("description")
    return {"description": "" if about is None else " ".join(about.text.split())}


def facts_of(name: str) -> list[tuple[str, list[Row]]]:
    """Everything that is called ``name``: (title, rows of field, value and source).

    Raises
    ------
    ConfigError
        If nothing is; the message names what is near.
    """
    from simulator.hardware import profiles
    from simulator.workload.framework_files import framework_names, load_framework
    from simulator.workload.model_files import load_model, model_aliases

    loaders: dict[str, Callable[[str], Any]] = {
        "accelerators": profiles.load_accelerator, "nodes": profiles.load_node, "networks": profiles.load_network,
        "clusters": profiles.load_cluster, "models": load_model, "frameworks": load_framework,
    }  # fmt: skip
    known = {kind: data.names(_FOLDERS[kind]) for kind in loaders}
    known["models"] = [*known["models"], *model_aliases()]
    known["frameworks"] = framework_names()
    found = [(f"{kind[:-1]} {name}", _facts(loader(name))) for kind, loader in loaders.items() if name in known[kind]]
    found += [(f"{r.family} strategy {r.name}", _plain_facts(r.to_dict())) for r in registry.find(name)]
    if not found and Path(name).exists():
        text = b"\n" + Path(name).read_bytes() if name.endswith((".yaml", ".yml")) else b""
        if b"\npeak_flops:" in text:
            found = [(f"accelerator {name}", _facts(profiles.load_accelerator(name)))]
        elif b"\naccelerator:" in text or b"\nbased_on:" in text:
            found = [(f"node {name}", _facts(profiles.load_node(name)))]
        else:
            return [(f"model {name}", _facts(load_model(name)))]
    if not found:
        names = {n for each in known.values() for n in each} | {r.name for r in registry.strategies()}
        raise ConfigError(unknown_name("name", name, names))
    return found


def _facts(item: Any) -> list[Row]:
    from simulator.hardware.describe import describe
    from simulator.hardware.types import Accelerator, Cluster, NetworkProfile, Node
    from simulator.workload.model import ModelSpec

    if isinstance(item, Accelerator | Node | NetworkProfile | Cluster):
        return [{"field": r.field, "value": r.value, "source": r.source} for r in describe(item)]
    if isinstance(item, ModelSpec):
        return _model_facts(item)
    rows: list[Row] = []
    for field in fields(item):
        value = getattr(item, field.name)
        if field.name == "constants":
            rows += [
                {"field": f"constants.{key}", "value": f"{c.value:.4g} {c.unit}".rstrip(),
                 "source": f"{c.trust}, sigma {c.sigma:.0%}: {c.source}"}
                for key, c in value.items()
            ]  # fmt: skip
        elif value not in ("", (), None):
            rows.append({"field": field.name, "value": _text(value), "source": ""})
    return rows


def _model_facts(model: Any) -> list[Row]:
    from simulator.workload.counting import active_parameters, kv_bytes_per_token, parameter_breakdown, parameters

    counts = {"parameters": parameters(model), "active_parameters": active_parameters(model)}
    rows = [{"field": k, "value": f"{v:,}", "source": "counted from the shapes"} for k, v in counts.items()]
    rows += [
        {"field": f"parameters.{k}", "value": f"{v:,}", "source": ""}
        for k, v in parameter_breakdown(model).items()
        if v
    ]
    if model.is_decoder:
        per_token = fmt(kv_bytes_per_token(model), "data")
        rows.append({"field": "kv_bytes_per_token", "value": per_token, "source": "at 2 bytes a number"})
    if model.published_parameters:
        rows.append(
            {
                "field": "published_parameters",
                "value": f"{model.published_parameters:,.0f}",
                "source": "; ".join(model.sources),
            }
        )
    for field in fields(model):
        value = getattr(model, field.name)
        if field.name == "layers":
            for i, (layer, count) in enumerate(value):
                rows.append({"field": f"layers[{i}]", "value": f"{count} x {_text(layer)}", "source": ""})
        elif isinstance(value, str | int | bool) and not field.name.startswith("published"):
            rows.append({"field": field.name, "value": _text(value), "source": ""})
    return rows


def _plain_facts(record: Row) -> list[Row]:
    return [{"field": k, "value": _text(v), "source": ""} for k, v in record.items() if v]


def _text(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        shown = {k: v for k, v in asdict(value).items() if v not in (0, "", None, False, ())}
        return ", ".join(f"{k}={v}" for k, v in shown.items() if not isinstance(v, dict)) + "".join(
            f"; {k}: " + ", ".join(f"{a}={b}" for a, b in v.items() if b not in (0, "", None, False))
            for k, v in shown.items()
            if isinstance(v, dict)
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "; ".join(_text(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return f"{value:,}" if isinstance(value, int) and value >= 100_000 else str(value)
