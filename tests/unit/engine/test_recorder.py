import pytest

from simulator.engine.recorder import Recorder


def test_rows_come_back_as_typed_columns_and_frame() -> None:
    recorder = Recorder({"time": "f8", "queue": "i8", "kind": "str"})
    recorder.append(time=0.5, queue=3, kind="start")
    recorder.row((1.0, 2**40, "end"))
    recorder.row((1.5, -1, "start"))
    columns = recorder.columns()
    recorder.row((2.0, 0, "end"))
    assert len(recorder) == 4
    assert [columns[c].tolist() for c in columns] == [[0.5, 1.0, 1.5], [3, 2**40, -1], ["start", "end", "start"]]
    frame = recorder.to_frame()
    assert frame["kind"].tolist() == ["start", "end", "start", "end"]
    assert frame["queue"].dtype == "int64"


def test_a_wrong_row_leaves_the_table_as_it_was() -> None:
    recorder = Recorder({"time": "f8", "queue": "i8"})
    recorder.row((0.0, 1))
    for wrong in ((1.0, 2.5), (1.0,), (1.0, 2, 3), ("x", 2)):
        with pytest.raises((TypeError, ValueError)):
            recorder.row(wrong)
    with pytest.raises(KeyError, match=r"did you mean .*queue"):
        recorder.append(time=1.0, quue=2)
    assert {name: c.tolist() for name, c in recorder.columns().items()} == {"time": [0.0], "queue": [1]}


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ValueError, match="f4"):
        Recorder({"time": "f4"})
