"""Tables: only the asked columns are read, and what is wrong in those is one line."""

import datetime
import json
import pathlib
from typing import Any

import pytest

from jaxneox.data import tables
from jaxneox.data.documents import chunks, input_files, keys_of, text_of
from jaxneox.errors import UserError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = [f"{i} é" for i in range(20)]
FAR = pa.array([2**62] * len(TEXTS), pa.timestamp("us"))  # beyond Python's years


def arrow(path: pathlib.Path, table: Any, rows: int = 7) -> pathlib.Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def saved(folder: pathlib.Path, parts: list[list[str]], **state: Any) -> pathlib.Path:
    """A folder as `datasets.Dataset.save_to_disk` writes it."""
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    for name, texts in zip(names, parts, strict=True):
        arrow(folder / name, pa.table({"text": texts}))
    listed = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_text(json.dumps(listed | state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def read(path: pathlib.Path, column: str = "text") -> list[tuple[str, str]]:
    found = [r for chunk in chunks(input_files(path), [column]) for r in chunk.records()]
    return [(record[0], text_of(record, column)) for record in found]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_other_columns_do_not_matter(
    tmp_path: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x.{kind}"
    table = pa.table({"when": FAR, "text": TEXTS})
    if kind == "arrow":
        arrow(path, table)
    else:
        parquet.write_table(table, path, row_group_size=7)
    for size in (3, 1000):
        monkeypatch.setattr(tables, "ROWS", size)
        monkeypatch.setattr(tables, "CHUNK", size)
        assert read(path) == [(f"{path}, row {i}", t) for i, t in enumerate(TEXTS, 1)]
        with pytest.raises(UserError, match=rf"x\.{kind}, row 1: a value of when cannot be read"):
            read(path, "when")
    assert keys_of([path]) == ("when", "text")
    with pytest.raises(UserError, match=r"the columns when, text, expected one .*\"body\""):
        read(path, "body")


def test_large_row_groups_and_bombs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value is stored once, however many rows have it."""
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"text": TEXTS, "n": list(range(len(TEXTS)))}), path)
    for size in (1, 40, 1 << 24):
        monkeypatch.setattr(tables, "SLICE", size)
        monkeypatch.setattr(tables, "HELD", size)
        assert read(path) == [(f"{path}, row {i}", t) for i, t in enumerate(TEXTS, 1)]
        assert (len(list(chunks([path]))) == 1) == (size > 1000)
    monkeypatch.setattr(tables, "LARGEST", 1 << 20)
    parquet.write_table(pa.table({"text": ["x" * 10_000] * 4000}), path)
    with pytest.raises(UserError, match=r"row \d+: the rows here unpack to more than 1 MiB"):
        read(path)
    coded = pa.array(["x" * 10_000] * 400).dictionary_encode()  # Arrow counts its value once
    for texts in (coded, pa.ListArray.from_arrays([0, 200, 400], coded)):
        parquet.write_table(pa.table({"text": texts}), path)
        with pytest.raises(UserError, match=r"row \d+: the rows here unpack to more than 1 MiB"):
            read(path)
    arrow(tmp_path / "x.arrow", pa.table({"text": ["x" * 10_000] * 400}), rows=400)
    with pytest.raises(UserError, match=r"row 1: the rows here unpack to more than 1 MiB"):
        read(tmp_path / "x.arrow")


def test_damaged(tmp_path: pathlib.Path) -> None:
    path = arrow(tmp_path / "x.arrow", pa.table({"text": TEXTS}))
    whole = path.read_bytes()
    for size in (0, 5, 100, 400, len(whole) - 20):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"x\.arrow: not a whole Arrow stream"):
            read(path)
    path.write_bytes(whole.replace("3 é".encode(), b"3 \xff\xff"))
    with pytest.raises(UserError, match=r"x\.arrow, row 1: damaged .*UTF8"):
        read(path)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.schema([])):
        pass
    with pytest.raises(UserError, match="expected a stream"):
        read(path)
    arrow(path, pa.table({"text": pa.array(TEXTS).dictionary_encode()}))
    with pytest.raises(UserError, match="dictionar"):
        read(path)


def test_a_saved_dataset(tmp_path: pathlib.Path) -> None:
    folder = saved(tmp_path / "ds", [TEXTS[:9], TEXTS[9:]])
    assert [text for _, text in read(folder)] == TEXTS
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    assert [text for _, text in read(tmp_path)] == TEXTS[9:] + TEXTS[:9]  # also deeper
    arrow(folder / "cache-1.arrow", pa.table({"text": ["no"]}))
    assert len(read(folder)) == len(TEXTS)
    (folder / "data-00000-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"00002\.arrow: no such file, but state"):
        read(folder)


def test_what_a_saved_dataset_may_not_be(tmp_path: pathlib.Path) -> None:
    selected = saved(tmp_path / "selected", [TEXTS])
    arrow(selected / "indices.arrow", pa.table({"indices": pa.array([3], pa.uint64())}))
    with pytest.raises(UserError, match=r"selected: its rows are a selection .*flatten_indices"):
        read(selected)
    splits = tmp_path / "dict"
    saved(splits / "train", [TEXTS])
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match=r"the splits train, test .*such as .*dict/train"):
        read(splits)
    for state in (
        "{",
        "[]",
        "{}",
        '{"_data_files": [{"filename": "../x.arrow"}]}',
        '{"_data_files": [3]}',
    ):
        folder = saved(tmp_path / "odd", [TEXTS])
        (folder / "state.json").write_text(state)
        with pytest.raises(
            UserError, match=r"odd/state\.json: (is not valid JSON|.*copy the folder again)"
        ):
            read(folder)


def test_real_ones(tmp_path: pathlib.Path) -> None:
    datasets = pytest.importorskip("datasets")
    when = [datetime.datetime(2020, 1, 1)] * len(TEXTS)
    made = datasets.Dataset.from_dict({"text": TEXTS, "when": when})
    made.select([5, 3]).save_to_disk(tmp_path / "ds", num_shards=2)
    assert [text for _, text in read(tmp_path / "ds")] == [TEXTS[5], TEXTS[3]]
    datasets.DatasetDict({"a": made}).save_to_disk(tmp_path / "dict")
    with pytest.raises(UserError, match="the splits a of a dataset"):
        read(tmp_path / "dict")
