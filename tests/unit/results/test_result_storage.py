"""A saved run reads back bit for bit, equal results give equal bytes, and an interrupted save leaves nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.results import storage
from simulator.results.sketch import QuantileSketch
from simulator.results.storage import load_result, save_result
from simulator.results.tables import TABLES, Result, columns_from_rows, concat, schema

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


def result(seed: int = 0) -> Result:
    sketch = QuantileSketch(0.01)
    sketch.add([1.0, 2.0, 3.0])
    rng = np.random.Generator(np.random.PCG64(seed))
    tables = {
        "summary": columns_from_rows(
            [{"workload": "a", "kind": "training", "feasible": True, "reason": "", "seconds": 0.1}]
        ),
        "requests": {
            "workload": ["a"] * 3,
            "request": [0, 1, 2],
            "ttft": rng.random(3),
            "status": ['x,"y"', "", "ü\n"],
        },
    }
    document = {
        "name": "t",
        "cluster": {"nodes": {"profile": "dgx-h100", "count": 2}},
        "workloads": [{"training": "a"}],
    }
    return Result(tables, document, {"seed": seed, "scenario": "t"}, ("careful",), {"a.ttft": sketch})


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    first = save_result(result(), tmp_path / "a")
    loaded = load_result(first)
    assert content(save_result(loaded, tmp_path / "b")) == content(first)
    assert content(save_result(result(), tmp_path / "c")) == content(first)
    assert content(save_result(result(seed=1), tmp_path / "d")) != content(first)
    assert loaded.rows("requests") == result().rows("requests")
    assert (loaded.warnings, loaded.provenance, loaded.document) == (
        ("careful",),
        result().provenance,
        result().document,
    )
    assert loaded.sketches["a.ttft"].to_dict() == result().sketches["a.ttft"].to_dict()


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(FLOATS, st.integers(-(2**63), 2**63 - 1), st.booleans(), TEXTS), min_size=1, max_size=5))
def test_every_value_survives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int, bool, str]]
) -> None:
    names = ("seconds", "step", "fits", "name")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    folder = tmp_path_factory.mktemp("run") / "r"
    read = load_result(save_result(Result({"steps": columns}), folder)).tables["steps"]
    for name in names[1:]:
        assert list(read[name]) == columns[name]
    # repr tells -0.0 from 0.0 and shows every bit of a float; NaN is NaN.
    assert list(map(repr, read["seconds"])) == list(map(repr, columns["seconds"]))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_save_leaves_nothing_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save_result(result(), tmp_path / "run")
    before = content(tmp_path / "run")
    written: list[Path] = []

    def interrupted(path: Path, value: object) -> None:
        written.append(path)
        raise error

    monkeypatch.setattr(storage, "_write_json", interrupted)
    for folder in ("run", "fresh"):
        with pytest.raises((KeyboardInterrupt, ConfigError)):
            save_result(result(seed=5), tmp_path / folder)
    assert written
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert content(tmp_path / "run") == before


def test_a_run_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    save_result(result(), tmp_path / "run")
    save_result(result(seed=3), tmp_path / "run")
    assert load_result(tmp_path / "run").provenance["seed"] == 3
    with pytest.raises(ConfigError, match="holds a run already"):
        save_result(result(), tmp_path / "run", replace=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not a saved run"):
        save_result(result(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"


def test_big_tables_as_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(storage, "_BIG", 2)
    folder = save_result(result(), tmp_path / "run", parquet=True)
    assert {p.name for p in folder.glob("*.parquet")} == {"requests.parquet"}
    assert load_result(folder).rows("requests") == result().rows("requests")


def test_no_run_and_damaged_runs_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a saved run"):
        load_result(tmp_path)
    for name, text in (("requests.csv", "a,b\n"), ("provenance.json", "{"), ("tables.json", "[1]")):
        folder = save_result(result(), tmp_path / name)
        (folder / name).write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            load_result(folder)


def test_frames_have_the_defined_columns_even_when_empty() -> None:
    made = result()
    assert made.summary.loc[0, "seconds"] == 0.1
    assert list(made.frame("traffic").columns) == [c for t, c in schema() if t == "traffic"]
    assert made.undocumented() == []
    assert {t for t, _ in schema()} == set(TABLES)
    assert all(column.definition for column in schema().values())


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown tables"):
        Result({"sumary": {}})
    with pytest.raises(ValueError, match="differ in length"):
        Result({"summary": {"a": [1], "b": [1, 2]}})
    with pytest.raises(AttributeError, match="tables: summary"):
        result().sumary


def test_verdict_and_reasons() -> None:
    rows = [
        {"workload": "a", "feasible": True, "reason": ""},
        {"workload": "b", "feasible": False, "reason": "too big"},
    ]
    bad = Result({"summary": columns_from_rows(rows)})
    assert (bad.feasible, bad.reasons, bad.of("a")["reason"]) == (False, ("b: too big",), "")
    html = bad._repr_html_()
    assert "b: too big" in html
    assert result()._repr_html_().count("<tr") >= 4


def test_json_has_no_nan() -> None:
    rows = [{"workload": "a", "feasible": True, "seconds": math.nan, "energy": math.inf}]
    (row,) = Result({"summary": columns_from_rows(rows)}).to_json()["summary"]
    assert (row["seconds"], row["energy"]) == (None, None)


def test_concat_fills_what_a_part_lacks() -> None:
    joined = concat([{"workload": ["a"], "seconds": np.array([1.0])}, {"workload": ["b"], "requests": [5]}])
    assert joined["workload"] == ["a", "b"]
    assert joined["seconds"][0] == 1.0
    assert math.isnan(joined["seconds"][1])
    assert math.isnan(joined["requests"][0])
