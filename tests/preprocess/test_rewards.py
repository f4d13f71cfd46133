"""Rewards of documents: NeoX's files where they are whole numbers, and nothing lost where not."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jaxneox.data.indexed import IndexedDataset
from jaxneox.preprocess import output
from tests.preprocess.command import made, status_of
from tests.preprocess.test_chat import CHATML, write
from tests.preprocess.test_resume import Killed

CHAT = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]


def tokenizer(path: pathlib.Path, template: str | None = CHATML) -> pathlib.Path:
    """A folder with a tokenizer of bytes, which ends texts with `</s>`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    config: dict[str, Any] = {"eos_token": "</s>"}
    config |= {} if template is None else {"chat_template": template}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def call(path: pathlib.Path, prefix: pathlib.Path, *more: str, workers: int = 1) -> int:
    folder = tokenizer(path.parent / "tok")
    return status_of([
        "--input", str(path), "--output-prefix", str(prefix), "--tokenizer-path", str(folder),
        "--workers", str(workers), *more,
    ])  # fmt: skip


def rated(path: pathlib.Path, rewards: Sequence[Any]) -> pathlib.Path:
    return write(path, [{"messages": CHAT, "r": reward} for reward in rewards])


def values(prefix: pathlib.Path, name: str = "messages_reward") -> IndexedDataset:
    return IndexedDataset(f"{prefix}_{name}_document")


def listed(dataset: IndexedDataset) -> list[list[Any]]:
    return [dataset.get(i).tolist() for i in range(len(dataset))]


@pytest.fixture
def golden(shared: pathlib.Path) -> pathlib.Path:
    """NeoX's files, the rows that they were made from in `data`, and the tokenizer."""
    path = shared / "golden/neox_posttrain/common"
    if not path.is_dir():
        pytest.skip(f"no golden cases at {path}: set JAXNEOX_SHARED")
    return path


@pytest.mark.parametrize(
    ("case", "source", "keys", "flags"),
    [
        ("sft", "sft", ["messages"], []),
        ("dpo", "pairs", ["chosen", "rejected"], ["--only-last"]),
        ("dpoall", "pairs", ["chosen", "rejected"], []),
        ("rm", "pairs_short", ["chosen", "rejected"], ["--for-rm"]),
        ("kto", "sft", ["messages"], ["--reward-key", "reward", "--binary-reward"]),
        ("ktoi", "sft", ["messages"], ["--reward-key", "score"]),
        ("ktof", "sft", ["messages"], ["--reward-key", "fscore"]),
    ],
)
def test_neox_files(
    golden: pathlib.Path, tmp_path: pathlib.Path,
    case: str, source: str, keys: list[str], flags: list[str],
) -> None:  # fmt: skip
    data = golden / "data"
    for key in keys:  # as NeoX's own two runs for pairs
        words = ["--input", str(data / f"{source}.jsonl"), "--workers", "1", "--jsonl-keys", key]
        words += ["--output-prefix", str(tmp_path / case), "--tokenizer-path", str(golden)]
        assert status_of([*words, *flags]) == 0
    written = [path for path in sorted(tmp_path.glob("*")) if path.suffix != ".sha256"]
    for path in written:
        if case == "ktof" and "_reward_" in path.name:
            continue  # NeoX cuts what is behind the point
        assert path.read_bytes() == (data / path.name).read_bytes(), path.name
    ours = {path.name for path in written}
    theirs = {path.name for path in data.glob(f"{case}_*") if "basellama" not in path.name}
    assert ours == theirs
    if case == "ktof":
        whole = [
            json.loads(line)["fscore"] for line in (data / "sft.jsonl").read_text().splitlines()
        ]
        rewards = values(tmp_path / case)
        assert rewards.dtype == np.float32
        assert listed(rewards) == [[float(np.float32(one))] for one in whole]


def test_for_a_reward_model_only_a_second_end_is_labelled(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"messages": CHAT}])
    assert call(path, tmp_path / "x", "--for-rm") == 0
    tokens = listed(values(tmp_path / "x", "messages"))[0]
    assert tokens[-2:] == [256, 256] and 256 not in tokens[:-2]
    assert listed(values(tmp_path / "x", "messages_label")) == [[-100] * (len(tokens) - 1) + [256]]


@pytest.mark.parametrize(
    ("rewards", "flags", "dtype", "stored"),
    [
        ([True, False, 1, -3], [], "int32", [1, 0, 1, -3]),
        ([2.0, -1.0], [], "int32", [2, -1]),
        ([2.5, 1], [], "float32", [2.5, 1]),
        ([1, 2**31], [], "float32", [1, 2**31]),
        ([2**31 - 1, -(2**31)], [], "int32", [2**31 - 1, -(2**31)]),
        ([True, False, 1, 0, -3, 0.5], ["--binary-reward"], "int32", [1, -1, 1, -1, -1, 1]),
    ],
)
def test_the_type_of_rewards(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
    rewards: list[Any], flags: list[str], dtype: str, stored: list[float],
) -> None:  # fmt: skip
    path = rated(tmp_path / "in.jsonl", rewards)
    assert call(path, tmp_path / "x", "--reward-key", "r", *flags) == 0
    found = values(tmp_path / "x")
    assert found.dtype == dtype and listed(found) == [[one] for one in stored]
    assert f"note: messages_reward is stored as {dtype}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": CHAT}', 'line 2: no "r", expected a reward'),
        ('{"messages": CHAT, "r": null}', 'line 2: no "r", expected a reward'),
        ('{"messages": CHAT, "r": "1"}', """line 2: "r" is '1', expected a number"""),
        ('{"messages": CHAT, "r": [1]}', 'line 2: "r" is [1], expected a number'),
        ('{"messages": CHAT, "r": NaN}', 'line 2: "r" is nan, expected a number of at most'),
        ('{"messages": CHAT, "r": -Infinity}', 'line 2: "r" is -inf, expected'),
        ('{"messages": CHAT, "r": 1e39}', 'line 2: "r" is 1e+39, expected'),
        (f'{{"messages": CHAT, "r": 1{"0" * 400}}}', 'line 2: "r" is 1000000000'),
    ],
)
def test_wrong_rewards(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    path = rated(tmp_path / "in.jsonl", [1])
    path.write_text(path.read_text() + line.replace("CHAT", json.dumps(CHAT)) + "\n")
    assert call(path, tmp_path / "x", "--reward-key", "r") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and message in said[-1]  # the other is the note on messages
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--binary-reward"], "--binary-reward: needs --reward-key KEY"),
        (["--for-rm", "--no-mask"], "--for-rm, --no-mask: a reward model needs the label"),
    ],
)
def test_flags_that_do_not_go_together(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    path = rated(tmp_path / "in.jsonl", [1])
    assert call(path, tmp_path / "x", *flags) == 2
    assert message in capsys.readouterr().err


def test_a_reward_model_needs_an_end(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rated(tmp_path / "in.jsonl", [1])
    folder = tokenizer(tmp_path / "endless")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--for-rm",
             "--tokenizer-path", str(folder), "--workers", "1"]  # fmt: skip
    assert status_of(words) == 2
    assert "names no eos_token, at which a reward model" in capsys.readouterr().err


def test_a_table_with_rewards(tmp_path: pathlib.Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"messages": [CHAT, CHAT], "r": [0.5, 1.0], "other": [1, 2]})
    parquet.write_table(table, tmp_path / "in.parquet")
    assert call(tmp_path / "in.parquet", tmp_path / "x", "--reward-key", "r") == 0
    assert listed(values(tmp_path / "x")) == [[0.5], [1.0]]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("last", [3, 0.5])
def test_killed_and_begun_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, last: float
) -> None:
    """That one is not whole is known only at the end; a kill then loses nothing."""
    path = rated(tmp_path / "in.jsonl", [1, 2, -1] * 5 + [last])
    flags = ("--reward-key", "r")
    assert call(path, tmp_path / "whole" / "x", *flags) == 0
    expected = made(tmp_path / "whole" / "x")
    assert values(tmp_path / "whole" / "x").dtype == ("int32" if last == 3 else "float32")
    monkeypatch.setattr(output, "EVERY", 0.0)
    complete, limit = output.Output._complete, 0

    def some(self: output.Output, *given: Any) -> None:
        nonlocal limit
        complete(self, *given)
        limit -= 1
        if not limit:
            raise Killed

    monkeypatch.setattr(output.Output, "_complete", some)
    prefix = tmp_path / "killed" / "x"
    for dataset in (3, 1, 2):
        limit = dataset
        with pytest.raises(Killed):
            call(path, prefix, *flags)
        assert not list(prefix.parent.glob("x*"))
    limit = 0
    assert call(path, prefix, *flags) == 0
    assert made(prefix) == expected


@pytest.mark.usefixtures("small_chunks")
def test_workers_make_the_same_files(tmp_path: pathlib.Path) -> None:
    path = rated(tmp_path / "in.jsonl", [1, 2.5, -1] * 5)
    for workers in (1, 2):
        prefix = tmp_path / f"by{workers}" / "x"
        assert call(path, prefix, "--reward-key", "r", workers=workers) == 0
    assert made(tmp_path / "by1" / "x") == made(tmp_path / "by2" / "x")
