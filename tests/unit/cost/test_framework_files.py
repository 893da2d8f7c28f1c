"""The shipped frameworks, and what a wrong file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.data import names
from simulator.errors import ConfigError
from simulator.workload.framework_files import FOLDER, framework_names, load_framework


@pytest.mark.parametrize("name", names(FOLDER))
def test_shipped_framework_is_complete(name: str) -> None:
    framework = load_framework(name)
    assert framework.name == name
    assert framework.sources
    assert {"memory_reserve", "fragmentation"} <= set(framework.constants)
    assert framework.area == "training" or "host_per_step" in framework.constants
    assert framework.area == "serving" or "compute_interference" in framework.constants
    counted = framework.operators_forward > 0 and framework.operators_backward > 0
    launched = {"host_per_layer", "host_per_launch"} & set(framework.constants)
    assert framework.cuda_graphs or counted or launched
    for key, constant in framework.constants.items():
        assert constant.id == f"{name}.{key}"
        assert constant.source
        assert constant.sigma > 0 or constant.value == 0


def test_aliases_point_at_files_and_do_not_shadow_them() -> None:
    assert load_framework("vllm") is load_framework("vllm-latest")
    assert len(framework_names()) == len(set(framework_names()))


def test_unknown_name_suggests_a_near_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'vllm-0\.10'"):
        load_framework("vlm-0.10")


def test_all_errors_of_a_file_come_at_once_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\narea: servin\ncuda_graph: true\nblock_size: many\n"
        "constants:\n  host_per_step: {value: 3, sigma: 0.1, trust: fitted, source: x}\n"
        "  host_per_layr: {value: 3 us, sigma: 0.1, trust: fitted, source: x}\n"
        "  memory_reserve: {value: 3 GB, sigma: -1, trust: hearsay, source: x}\n"
        "  fragmentation: {value: 3 %}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_framework(str(path))
    text = str(caught.value)
    for line, part in (
        (2, "did you mean 'serving'"), (3, "did you mean 'cuda_graphs'"), (4, "whole number"), (6, "has no unit"),
        (7, "did you mean 'host_per_layer'"), (8, "at least 0"), (8, "'hearsay' is not one of"),
        (9, "needs sigma, trust, source"),
    ):  # fmt: skip
        assert any(f":{line}:" in issue and part in issue for issue in text.splitlines()), (line, part, text)
