"""Readers on small files: formats recognised, bad rows named by line, everything counted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.workload.requests import load_requests, read_requests, trace_formats

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
MOONCAKE = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}


def write(path: Path, text: str, compress: bool = False) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
    return path


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.mark.parametrize("compress", [False, True])
def test_azure_2023_with_windows_line_ends_and_no_final_newline(tmp_path: Path, compress: bool) -> None:
    text = AZURE + "2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109"
    table = read_requests(write(tmp_path / "anything", text, compress))
    assert table.provenance.format == "azure"
    np.testing.assert_allclose(table.arrival, [0, 4.314579], atol=1e-9)
    assert table.output_tokens.tolist() == [44, 109]


def test_azure_2024_time_zones(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,100,7\n"
    table = read_requests(write(tmp_path / "t.csv", AZURE + rows))
    np.testing.assert_allclose(table.arrival, [0, 0.99007], atol=1e-9)


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    rows = [
        "2023-11-16 18:15:46.0,374,44",
        "2023-11-16 18:15:47.0,many,44",
        "2023-11-16 18:15:48.0,10",
        "yesterday,10,20",
        "2023-11-16 18:15:49.0,-3,20",
        "2023-11-16 18:15:50.0,30,20",
    ]
    path = write(tmp_path / "t.csv", AZURE + "\n".join(rows) + "\n")
    with pytest.raises(ConfigError) as error:
        read_requests(path)
    text = str(error.value)
    assert f"{path}:3:1: input_tokens is 'many'" in text
    assert f"{path}:4:1: 2 columns, but the header has 3" in text
    assert f"{path}:5:1: arrival is 'yesterday'" in text
    assert f"{path}:6:1: input tokens is -3" in text
    assert "4 of 6 rows are bad" in text and "--skip-bad-rows" in text

    table = read_requests(path, skip_bad_rows=True)
    np.testing.assert_allclose(table.arrival, [0, 4])
    assert table.provenance.dropped == {"bad input_tokens": 2, "wrong number of columns": 1, "bad arrival": 1}
    assert table.provenance.rows_read == 6


def test_first_twenty_bad_rows_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "arrival_s,input_tokens,output_tokens\n" + "1,x,3\n" * 50 + "1,2,3\n")
    with pytest.raises(ConfigError) as error:
        read_requests(path)
    assert [i.line for i in error.value.issues if i.line] == list(range(2, 22))
    assert "50 of 51 rows are bad (30 more bad rows are not shown)" in str(error.value)


def test_generic_csv_with_the_names_of_others_and_quotes(tmp_path: Path) -> None:
    header = '"request_id","arrived_at","num_prefill_tokens","num_decode_tokens","priority"\n'
    text = header + '"a,b",2.5,10,3,1\n7,0.5,20,4,0\n'
    table = read_requests(write(tmp_path / "t.csv", text))
    assert table.provenance.format == "csv"
    assert table.arrival.tolist() == [0.0, 2.0]
    assert table.input_tokens.tolist() == [20, 10]
    assert table.priority is not None and table.priority.tolist() == [0, 1]
    assert table.provenance.transforms[0].startswith("sorted by time (1 rows")


def test_zero_output_is_left_out_and_counted(tmp_path: Path) -> None:
    table = read_requests(write(tmp_path / "t.csv", "arrival_s,input_tokens,output_tokens\n0,5,0\n1,5,2\n"))
    assert len(table) == 1
    assert table.provenance.dropped == {"no output token": 1}


def test_burstgpt_sessions(tmp_path: Path) -> None:
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5.0,s1,3,GPT-4,10,20,30,Conversation log\n6.0,,1,GPT-4,11,0,11,API log\n"
    rows += "7.0,,1,GPT-4,12,2,14,API log\n9,s1,1,GPT-4,9,2,11,Conversation log\n"
    table = read_requests(write(tmp_path / "t.csv", header + rows))
    assert table.session is not None
    assert table.session[0] == table.session[2] >= 0 and table.session[1] == -1
    assert table.provenance.dropped == {"failed request (zero response tokens)": 1}
    assert table.arrival.tolist() == [0, 2, 4]


def test_mooncake_jitter_is_seeded_bounded_and_optional(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", jsonl([MOONCAKE | {"timestamp": 3000 * (i // 10)} for i in range(200)]))
    one, same, other = (read_requests(path, seed=s) for s in (1, 1, 2))
    raw = read_requests(path, jitter=False)
    assert np.array_equal(one.arrival, same.arrival) and not np.array_equal(one.arrival, other.arrival)
    assert one.provenance.seed == 1 and "seed 1" in one.provenance.transforms[0]
    assert np.histogram(one.arrival + 1e-9, bins=20)[0].max() < 20  # spread, not in volleys
    assert len(np.unique(raw.arrival)) == 20
    assert one.arrival.max() <= raw.arrival.max() + 3.0


def test_mooncake_blocks_move_with_their_requests(tmp_path: Path) -> None:
    rows = [MOONCAKE | {"timestamp": t, "hash_ids": [0, t], "input_length": 513 + t} for t in (7, 1, 90, 45)]
    table = read_requests(write(tmp_path / "t.jsonl", jsonl(rows)))
    assert table.prefix_blocks is not None
    assert [table.prefix_blocks[i].tolist() for i in range(4)] == [[0, 1], [0, 7], [0, 45], [0, 90]]
    assert table.input_tokens.tolist() == [514, 520, 558, 603]


def test_bad_json_rows(tmp_path: Path) -> None:
    rows = [MOONCAKE, MOONCAKE | {"timestamp": -5}, MOONCAKE | {"input_length": "x"}, MOONCAKE | {"hash_ids": [1.5]}]
    text = jsonl(rows) + "{broken\n\n" + jsonl([{"timestamp": 4, "output_length": 3, "input_length": None}, MOONCAKE])
    path = write(tmp_path / "t.jsonl", text)
    with pytest.raises(ConfigError) as error:
        read_requests(path)
    assert [i.line for i in error.value.issues if i.line] == [2, 3, 4, 5, 7]
    table = read_requests(path, skip_bad_rows=True)
    assert (len(table), table.provenance.rows_read, sum(table.provenance.dropped.values())) == (2, 7, 5)


def test_bailian_sessions_are_trees(tmp_path: Path) -> None:
    def chat(chat_id: int, parent: int, time: float, turn: int) -> dict[str, Any]:
        return {
            "chat_id": chat_id, "parent_chat_id": parent, "timestamp": time, "input_length": 32, "output_length": 4,
            "type": "text", "turn": turn, "hash_ids": [chat_id, 99],
        }  # fmt: skip

    rows = [
        chat(10, -1, 0.0, 1),
        chat(30, -1, 1.0, 1),
        chat(11, 10, 5.0, 2),
        chat(12, 11, 9.0, 3),
        chat(50, 49, 3.0, 2),
    ]
    table = read_requests(write(tmp_path / "t.jsonl", jsonl(rows)))
    assert table.provenance.format == "bailian"
    assert table.prefix_block_tokens == 16
    assert table.arrival.tolist() == [0, 1, 3, 5, 9]
    assert table.session is not None and table.parent is not None and table.turn is not None
    assert table.parent.tolist() == [-1, -1, -1, 0, 3]  # the parent of 50 is not in the file
    assert table.session[0] == table.session[3] == table.session[4]
    assert len(set(table.session.tolist())) == 3
    assert table.turn.tolist() == [1, 1, 2, 2, 3]


def rag_row(time: str, passages: list[int]) -> dict[str, Any]:
    ids = {"sys_prompt": [1], "passages_ids": passages, "history": [], "web_search": [], "user_input": [5]}
    return {"timestamp": time, "input_length": 100, "output_length": 9, "hash_ids": ids, "session_id": "s"}


def test_ragpulse_chains_parts_only_after_the_same_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "0_trace.jsonl", jsonl([rag_row("1", [7, 8]), rag_row("2", [7, 9]), rag_row("3", [8, 7])]))
    assert read_requests(path).prefix_blocks is None
    sizes = {"1_sys_prompt": ("sys_prompt_id", {1: 64}), "2_passages": ("passage_id", {7: 10, 8: 20, 9: 30})}
    sizes |= {
        "3_history": ("history_id", {}),
        "4_user_input": ("user_input_id", {5: 3}),
        "5_web_search": ("web_search_id", {}),
    }
    for stem, (key, parts) in sizes.items():
        write(
            tmp_path / f"{stem}.jsonl.gz", jsonl([{key: i, "token_length": t} for i, t in parts.items()]), compress=True
        )
    blocks = read_requests(path).prefix_blocks
    assert blocks is not None and blocks.tokens is not None
    one, two, three = (blocks[i].tolist() for i in range(3))
    assert one[:2] == two[:2] and one[2] != two[2]  # same system prompt and first passage
    assert three[0] == one[0] and not set(three[1:]) & set(one)  # same passages in another order share nothing
    assert blocks.tokens[:4].tolist() == [64, 10, 20, 3]


def servegen(path: Path, traces: dict[int, str], lengths: dict[int, dict[str, str]]) -> Path:
    members = {f"data/x/chunk-{n}-trace.csv": text for n, text in traces.items()}
    members |= {f"data/x/chunk-{n}-dataset.json": json.dumps({"0": fields}) for n, fields in lengths.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


LENGTHS = {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{3: 1.0, 4: 0}"}


def test_servegen_draws_clients_under_a_seed(tmp_path: Path) -> None:
    traces = {0: "0,2,1,Gamma,1.0,0.5\n600,0,0,,0,0\n", 4: "0,1,2,Weibull,0.6,0.7\n600,3,1,Gamma,1,1\n"}
    path = servegen(tmp_path / "c.tar.gz", traces, {0: LENGTHS, 4: LENGTHS})
    table, again = (read_requests(path, seed=5, duration=1200.0) for _ in range(2))
    assert table.provenance.format == "servegen"
    assert np.array_equal(table.arrival, again.arrival)
    assert table.client is not None
    assert set(table.client.tolist()) == {0, 4}
    assert set(table.input_tokens.tolist()) == {10, 20} and set(table.output_tokens.tolist()) == {3}
    assert (table.client[table.arrival >= 600] == 4).all()
    expected = 2 * 600 + 1 * 600 + 3 * 600
    assert abs(len(table) - expected) < 5 * np.sqrt(1200 + 1800 + 600 * 1.75**2)  # CV of Weibull(0.6): 1.76
    assert read_requests(path, duration=600.0, rate=30.0).rate == pytest.approx(30.0, rel=0.05)


def test_servegen_is_drawn_as_long_and_as_fast_as_wanted(tmp_path: Path) -> None:
    """Not drawn for the default hour and cut or stretched afterwards."""
    windows = "".join(f"{600 * i},1,1,Gamma,1,1\n" for i in range(12))
    path = servegen(tmp_path / "c.tar.gz", {0: windows}, {0: LENGTHS})
    table = load_requests(path, rate=2.0, duration=7200.0)
    assert table.arrival[-1] > 7000
    assert abs(len(table) - 14400) < 5 * np.sqrt(14400)
    assert len(load_requests(path)) < 3600 + 5 * 60


def test_servegen_clients_without_lengths_borrow_and_say_so(tmp_path: Path) -> None:
    path = servegen(tmp_path / "c.tar.gz", {0: "0,1,1,Gamma,1,1\n", 1: "0,1,1,Gamma,1,1\n"}, {1: LENGTHS})
    table = read_requests(path, duration=600.0)
    assert any("1 clients" in t and "borrow" in t for t in table.provenance.transforms)


def test_servegen_bad_windows_are_named(tmp_path: Path) -> None:
    traces = {0: "0,1,1,Gamma,1,1\n600,2,1,Pareto,1,1\nnonsense\n"}
    path = servegen(tmp_path / "c.tar.gz", traces, {0: LENGTHS})
    with pytest.raises(ConfigError) as error:
        read_requests(path)
    assert "chunk-0-trace.csv:2: rate 2.0, family 'Pareto'" in str(error.value)
    assert "chunk-0-trace.csv:3:" in str(error.value)
    assert any("2 bad client windows" in t for t in read_requests(path, skip_bad_rows=True).provenance.transforms)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "of no known trace format"),
        ("", "is empty: give a header"),
        ("arrival_s,input_tokens,output_tokens\n", "a header and no row: give one row per request"),
    ],
)
def test_files_that_are_no_trace(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_requests(write(tmp_path / "t.csv", text))


def test_truncated_gzip_is_an_input_error(tmp_path: Path) -> None:
    data = gzip.compress((AZURE + "2023-11-16 18:15:46.0,374,44\n" * 1000).encode())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(data[:-20])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_requests(path, format="azure")


def test_wrong_names_are_input_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "arrival_s,input_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(ConfigError, match="there is no trace file"):
        read_requests(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match="did you mean 'azure'"):
        read_requests(path, format="azur")
    with pytest.raises(ConfigError, match="unknown option of format csv 'jitter'"):
        read_requests(path, jitter=True)
    with pytest.raises(ConfigError, match="no column 'ContextTokens'"):
        read_requests(path, format="azure")


def test_every_format_names_its_source() -> None:
    formats = trace_formats()
    assert {f.name for f in formats} == {
        "azure",
        "mooncake",
        "burstgpt",
        "servegen",
        "bailian",
        "ragpulse",
        "weka",
        "csv",
    }
    assert all(f.summary and f.source for f in formats)
    assert formats[-1].name == "csv"


def session(*requests: object, **more: object) -> str:
    return json.dumps({"id": "a", "block_size": 64, "hash_id_scope": "local", "requests": list(requests), **more})


def test_weka_sessions_wait_for_their_answers(tmp_path: Path) -> None:
    step = {"in": 200, "out": 10, "think_time": 2.0, "hash_ids": [1, 2, 3]}
    agent = {"type": "subagent", "requests": [{**step, "in": 70, "hash_ids": [9]}, {**step, "in": 80}]}
    path = tmp_path / "weka.jsonl"
    path.write_text("\n".join([session(step, agent, step, {**step, "out": 0}), session(step)]), encoding="utf-8")
    table = read_requests(path, rate=1.0)
    assert table.provenance.format == "weka"
    assert table.input_tokens.tolist() == [200, 70, 80, 200, 200]
    assert table.parent is not None and table.think_time is not None and table.prefix_blocks is not None
    assert table.parent.tolist() == [-1, 0, 1, 0, -1]  # a sub-agent and the step after it follow the same answer
    assert np.isnan(table.think_time).tolist() == [True, False, False, False, True]
    assert table.provenance.dropped == {"no generated token": 1}
    assert not set(table.prefix_blocks[0].tolist()) & set(table.prefix_blocks[4].tolist())  # hashes are of a session


def test_weka_mistakes_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "weka.jsonl"
    path.write_text(
        "\n".join(
            [session({"in": 0, "out": 3}, {"in": 5, "out": 3, "think_time": -1.0}), session(block_size="x")]
        ),
        encoding="utf-8",
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        read_requests(path, format="weka")
    messages = " ".join(str(issue) for issue in caught.value.issues)
    assert "'in' and 'out'" in messages and "'think_time'" in messages and "'block_size'" in messages
    good = session({"in": 5, "out": 3})
    path.write_text(path.read_text(encoding="utf-8") + "\n" + good, encoding="utf-8")
    left = read_requests(path, format="weka", skip_bad_rows=True)
    assert (len(left), left.provenance.rows_read, left.provenance.dropped) == (1, 3, {"bad session": 2})
