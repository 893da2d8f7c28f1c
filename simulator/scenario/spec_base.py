"""What the models of scenario keys have in common: strictness, and the names of shipped files."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from simulator.scenario.fields import Count, Named

__all__ = ["AcceleratorCount", "ClusterName", "FrameworkName", "LinkName", "ModelName", "NodeName", "Options", "Strict"]

AcceleratorCount: TypeAlias = Annotated[Count, Field(ge=1)]
Options: TypeAlias = dict[str, Any]
ModelName: TypeAlias = Annotated[str, Named("workloads/models", "model", "simulator.workload.model_files:load_model")]
FrameworkName: TypeAlias = Annotated[
    str, Named("workloads/frameworks", "framework", "simulator.workload.framework_files:load_framework")
]
NodeName: TypeAlias = Annotated[str, Named("hardware_profiles/nodes", "node", "simulator.hardware.profiles:load_node")]
ClusterName: TypeAlias = Annotated[
    str, Named("hardware_profiles/clusters", "cluster", "simulator.hardware.profiles:load_cluster")
]
LinkName: TypeAlias = Annotated[
    str, Named("hardware_profiles/networks", "network", "simulator.hardware.profiles:load_link")
]


class Strict(BaseModel):
    """Unknown keys are errors: a typo must never be a silent default."""

    # Built when first used: a scenario builds its own model once, not every part of it again inside every other.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=(), defer_build=True)
