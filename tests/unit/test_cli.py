"""The command line: exit codes, JSON, no tracebacks, and a light start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulator import cli
from simulator.cli import main
from simulator.results.storage import load_result

ESTIMATE = ["estimate", "gpt3-175b-selene"]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def parsed(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_importing_the_package_and_its_help_imports_nothing_heavy() -> None:
    heavy = ["pandas", "numpy", "matplotlib", "scipy", "networkx", "simpy", "pydantic", "yaml"]
    for code in ("import simulator", "from simulator.cli import main; main(['--help'])"):
        check = f"{code}; import sys; print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[]"


def test_a_command_that_answers_in_text_does_without_pandas() -> None:
    check = (
        "from simulator.cli import main; main(['estimate', 'gpt3-175b-selene']);"
        "import sys; print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_estimate_prints_the_figures_people_compare(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capsys, *ESTIMATE)
    assert (code, err) == (0, "")
    for words in ("step time", "roofline floor", "MFU", "HFU", "pipeline bubble", "exposed communication",
                  "stage 0 hbm", "bytes per GPU and step", "80 % interval"):  # fmt: skip
        assert words in out


def test_estimate_as_json_saved_and_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, _ = answer(capsys, *ESTIMATE, "--json", "-o", str(run))
    printed = parsed(out)
    assert code == 0
    assert printed["feasible"] is True
    (row,) = printed["summary"]
    assert row["floor_seconds"] <= row["seconds"]
    assert sum(r["seconds"] for r in printed["time"]) == pytest.approx(row["seconds"])
    assert load_result(run).of("gpt3-175b")["seconds"] == row["seconds"]
    assert load_result(run).undocumented() == []
    for topic in ("memory", "time", "traffic", "source"):
        code, out, _ = answer(capsys, "explain", str(run), topic)
        assert (code, "gpt3-175b" in out) == (0, True)
        code, out, _ = answer(capsys, "explain", str(run), topic, "--json")
        assert all(rows for rows in parsed(out).values())
    code, out, _ = answer(capsys, "trace", str(run))
    events = parsed((run / "trace.json").read_text())["traceEvents"]
    slices = [e for e in events if e.get("cat", "").startswith("pipeline,")]
    # Forward and backward of 64 micro-batches in 3 chunks on 8 ranks.
    assert len(slices) == 2 * 64 * 3 * 8
    assert max(e["ts"] + e["dur"] for e in slices) <= row["seconds"] * 1e6 * (1 + 1e-9)


def test_a_run_answers_for_training_and_serving(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = ["run", "quickstart", "-s", "workloads.chat.requests.count=100", "-o", str(tmp_path / "run")]
    code, out, _ = answer(capsys, *run)
    assert code == 0
    for words in ("step time", "request throughput", "TTFT", "TPOT", "ITL", "end-to-end", "KV cache", "SLO goodput",
                  "SLO attainment", "tokens/s/GPU", "USD per million tokens", "J per token"):  # fmt: skip
        assert words in out
    result = load_result(tmp_path / "run")
    requests = result.rows("requests")
    assert len(requests) == 100
    assert all(r["arrival"] <= r["scheduled"] < r["first_token"] <= r["finish"] for r in requests)
    assert result.of("chat")["requests"] == 100
    assert result.undocumented() == []
    code, out, _ = answer(capsys, *run, "--json")
    assert [w["kind"] for w in parsed(out)["summary"]] == ["training", "serving"]


def test_record_summary_keeps_sketches_instead_of_rows(tmp_path: Path) -> None:
    run = ["run", "llama3-70b-chat", "-s", "workloads.chat.requests.count=300"]
    assert main([*run, "-o", str(tmp_path / "full")]) == 0
    assert main([*run, "-s", "record=summary", "-o", str(tmp_path / "short")]) == 0
    full, short = load_result(tmp_path / "full"), load_result(tmp_path / "short")
    exact_row, row = full.of("chat"), short.of("chat")
    rough = ("_median", "_p90", "_p99", "_rate", "queue_growth")  # sketched, or judged over sampled arrivals
    assert set(row) == {*exact_row, "quantile_error"}
    for key, value in exact_row.items():
        error = 0.05 if key.endswith(rough) else 1e-9
        assert row[key] == (value if isinstance(value, str) else pytest.approx(value, rel=error, nan_ok=True)), key
    assert "requests" not in short.tables
    for metric in ("ttft", "e2e"):
        exact = sorted(full.tables["requests"][metric])
        sketch = short.sketches[f"chat.{metric}"]
        assert sketch.count == len(exact)
        for q in (0.5, 0.9, 0.99):
            assert sketch.quantile(q) == pytest.approx(exact[int(q * (len(exact) - 1))], rel=sketch.relative_error)


def test_the_same_command_saves_the_same_bytes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert main([*ESTIMATE, "-o", str(tmp_path / folder)]) == 0
    capsys.readouterr()
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_what_does_not_fit_is_an_answer_with_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    big = ["estimate", "quickstart", "-s", "workloads.0.batch.micro_batch_size=64"]
    code, out, _ = answer(capsys, *big)
    assert code == 1
    assert "out of memory: stage 0 needs" in out
    code, out, _ = answer(capsys, *big, "--json")
    assert (code, parsed(out)["feasible"]) == (1, False)
    assert "too much" in parsed(out)["summary"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "quickstar"], "did you mean 'quickstart'"),
        (["check", "quickstart", "-s", "seed=x", "-s", "cluster.nodes.count=y"], "2 errors"),
        (["explain", "nowhere", "time"], "is not a saved run"),
        (["trace", "nowhere"], "is not a saved run"),
        (["plot", "nowhere"], "is not a saved run"),
        (["show", "h100-sxmm"], "did you mean 'h100-sxm"),
        (["list", "strategies", "--area", "trainin"], "did you mean 'training'"),
        (["list", "models", "--area", "training"], "are for 'fmsim list strategies'"),
        (["list", "strategies", "--missing", "nowhere.md"], "cannot be read"),
        (["runn"], "No such command"),
        (["check"], "Missing argument"),
    ],
)
def test_wrong_input_ends_with_2_and_no_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = answer(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_errors_as_json_keep_their_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("cluster: {nodes: {profile: dgx-h100, count: 1}}\nworkloads: []\nseeed: 1\n")
    code, out, err = answer(capsys, "check", str(path), "--json")
    errors = parsed(out)["errors"]
    assert code == 2
    assert [(e["line"], e["path"]) for e in errors] == [(2, "workloads"), (3, "seeed")]
    assert err.count("error: ") == 2


def test_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simulator.scenario.load.load_scenario", interrupted)
    code, _, err = answer(capsys, "check", "quickstart")
    assert (code, err) == (130, "fmsim: interrupted\n")


def test_check_says_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "check", "design", "--json")
    checked = parsed(out)
    assert (code, checked["ok"], checked["accelerators"]) == (0, True, 1024)
    assert [(w["name"], w["accelerators"]) for w in checked["workloads"]] == [("pretrain", 512), ("chat", 64)]
    assert any("requests of a failed replica of chat begin again" in w for w in checked["warnings"])
    code, out, _ = answer(capsys, "check", "design")
    assert (code, "note: failures: requests of a failed replica of chat" in out) == (0, True)


KINDS = ["strategies", "models", "accelerators", "nodes", "clusters", "networks", "frameworks", "scenarios", "requests",
         "topologies"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_in_text_and_json(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, out, _ = answer(capsys, "list", kind, "--json")
    rows = parsed(out)
    assert code == 0
    assert rows
    assert all(row["name"] for row in rows)
    code, out, _ = answer(capsys, "list", kind)
    assert (code, f"{len(rows)} rows" in out) == (0, True)


def test_strategy_records_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = answer(capsys, "list", "strategies", "--area", "training", "--json")
    rows = parsed(out)
    keys = {"name", "kind", "area", "family", "cites", "catalogue", "claims", "validated_by", "summary"}
    assert all(set(row) == keys and row["area"] == "training" for row in rows)
    assert {"1f1b", "interleaved-1f1b"} <= {row["name"] for row in rows}


@pytest.mark.parametrize("name", ["h100-sxm", "dgx-h100", "ndr400", "selene", "llama-3.1-8b", "vllm-0.10", "1f1b"])
def test_show_knows_every_kind_of_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = answer(capsys, "show", name, "--json")
    assert code == 0
    assert all(rows for rows in parsed(out).values())
    assert answer(capsys, "show", name)[0] == 0


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "schema")
    assert (code, parsed(out)["title"]) == (0, "fmsim scenario")


def test_new_writes_a_scenario_that_passes_check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, "new", "mine.yaml")[0] == 0
    assert answer(capsys, "check", "mine.yaml")[0] == 0
    code, _, err = answer(capsys, "new", "mine.yaml")
    assert (code, "--force" in err) == (2, True)
    assert answer(capsys, "new", "mine.yaml", "--force")[0] == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import simulator

    assert answer(capsys, "--version")[:2] == (0, f"fmsim {simulator.__version__}\n")


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("simulator.scenario.load.load_scenario", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", "quickstart"])


def test_export_writes_files_that_new_reads_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, again = tmp_path / "start", tmp_path / "again.yaml"
    assert main(["export", "how-to-split-a-70b", "--engine", "deepspeed", "-o", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["ds_config.json", "launch.sh"]
    assert main(["new", str(again), "--from", str(folder / "launch.sh")]) == 0
    capsys.readouterr()
    plans = []
    for scenario in ("how-to-split-a-70b", str(again)):
        assert main(["check", scenario, "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out)["workloads"])
    assert plans[0] == plans[1]
    assert main(["export", "how-to-split-a-70b", "--engine", "vllm"]) == 2
    assert "use megatron or deepspeed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["training", "serving", "cluster"])
def test_every_kind_of_new_scenario_passes_check(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    file = tmp_path / "new.yaml"
    assert main(["new", str(file), "--kind", kind]) == 0
    assert main(["check", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert {w["kind"] for w in found["workloads"]} == ({"training", "serving"} if kind == "cluster" else {kind})
    assert found["warnings"] == []


def test_an_option_without_its_value_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "--missing"]) == 2
    assert "--missing FILE: Rows of this catalogue" in capsys.readouterr().err


def test_the_shell_completes_names() -> None:
    from simulator.cli.options import complete_name, complete_scenario

    assert complete_scenario("llama3-70b") == ["llama3-70b-chat"]
    assert {"h100-sxm", "h100-pcie-8x"} <= set(complete_name("h100"))
    assert complete_name("no-such-thing") == []
