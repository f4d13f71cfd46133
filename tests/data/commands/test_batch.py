"""`batch` writes NeoX's batches; `inspect --step` says where they come from."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml

from jaxneox.data.writer import IndexedWriter
from tests.data import golden
from tests.data.commands.calls import call
from tests.data.small_preferences import pairs, rated

Said = Callable[..., str]
PARTS = ("train", "valid", "test")


def written(folder: pathlib.Path, **keys: Any) -> pathlib.Path:
    path = folder / "run.yml"
    path.write_text(yaml.safe_dump(keys))
    return path


@pytest.fixture
def numbered(tmp_path: pathlib.Path) -> str:
    """60 documents of 7 characters: letter, letter, six times, and the end of the document."""
    with IndexedWriter(tmp_path / "x", np.uint16) as out:
        for d in range(60):
            out.add([65 + d // 10] + [97 + d % 10] * 5 + [0])
    return str(tmp_path / "x")


def small(numbered: str, **more: Any) -> dict[str, Any]:
    return {
        "data-path": numbered, "split": "1", "seq-length": 8, "train-batch-size": 24,
        "train-iters": 20, "tokenizer-type": "CharLevelTokenizer",
    } | more  # fmt: skip


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Said:
    def run(*words: object) -> str:
        outcome = call(capsys, *words)
        assert outcome.code == 0, outcome
        return "\n".join(outcome.out)

    return run


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Said:
    return lambda *words: call(capsys, *words).refusal()


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("case", ["single", "blend", "blend_by_num_docs", "label_overflow"])
def test_golden(
    shared: pathlib.Path, tmp_path: pathlib.Path, case: str, dp: int, output: Said
) -> None:
    ranks = [golden.arrays(shared, "neox", f"batches_{case}_dp{dp}_rank{r}") for r in range(dp)]
    keys: dict[str, Any] = {
        "seq-length": 128, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2,
        "train-iters": {"single": 50, "label_overflow": 20}.get(case, 120), "eval-interval": 10,
        "eval-iters": 2, "padded-vocab-size": 50304,
    }  # fmt: skip
    a, b, text, label = (
        golden.corpus(shared, f"neox_corpus_{name}")
        for name in ("a_text", "b_text", "q_text", "q_label")
    )
    if case == "single":
        keys |= {"data-path": a, "split": "900,50,50"}
    elif case == "label_overflow":
        keys |= {f"{part}-data-paths": [text] for part in PARTS}
        keys |= {f"{part}-label-data-paths": [label] for part in PARTS}
        keys["pack-impl"] = "pack_until_overflow"
    else:
        keys |= {f"{part}-data-paths": [a, b] for part in PARTS}
        keys |= {"train-data-weights": [0.7, 0.3], "weighted_sampler_alpha": 0.3}
        keys["weight_by_num_documents"] = case == "blend_by_num_docs"
    path, out = written(tmp_path, **keys), tmp_path / "b.npz"
    output("batch", path, "--steps", "0:3", "--out", out, "--dp", str(dp))
    arrays = read(out)
    # [steps, micro, rank, row] of the golden ranks are the rows of the global batch.
    inputs = np.stack([rank["tokens"] for rank in ranks], axis=2).reshape(3, 8 * dp, 128)
    mask = np.stack([rank["loss_mask"] for rank in ranks], axis=2).reshape(3, 8 * dp, 128)
    np.testing.assert_array_equal(arrays["tokens"][..., :-1], inputs)
    np.testing.assert_array_equal(arrays.get("loss_mask", np.ones_like(mask)), mask)


def test_any_dp_and_any_start_give_the_same(
    numbered: str, tmp_path: pathlib.Path, output: Said
) -> None:
    path = written(tmp_path, **small(numbered))
    output("batch", path, "--steps", "0:20", "--out", tmp_path / "all.npz")
    every = read(tmp_path / "all.npz")["tokens"]
    assert every.shape == (20, 24, 9) and every.dtype == np.int32
    for dp in (2, 3, 8):
        output("batch", path, "--steps", "17:19", "--out", tmp_path / "b.npz", "--dp", str(dp))
        np.testing.assert_array_equal(read(tmp_path / "b.npz")["tokens"], every[17:19])
    output("batch", path, "--steps", "143000", "--out", tmp_path / "far.npz")
    assert read(tmp_path / "far.npz")["tokens"].shape == (1, 24, 9)


def test_megatron_order_is_another(numbered: str, tmp_path: pathlib.Path, output: Said) -> None:
    arrays = {}
    for order in ("neox", "megatron"):
        path = written(tmp_path, **small(numbered, order=order))
        output("batch", path, "--steps", "0:2", "--out", tmp_path / "b.npz")
        arrays[order] = read(tmp_path / "b.npz")
    assert not np.array_equal(arrays["neox"]["tokens"], arrays["megatron"]["tokens"])
    assert "loss_mask" not in arrays["neox"] and arrays["megatron"]["loss_mask"].all()


def test_a_batch_that_grows(
    numbered: str, tmp_path: pathlib.Path, output: Said, failing: Said
) -> None:
    path = written(tmp_path, **small(numbered, **{"rampup-batch-size": [8, 8, 48]}))
    # 8, 8, 8 to sample 24; 16, 16 to 56, past 48; then 24
    for steps, size in (("0:3", 8), ("3:5", 16), ("5:9", 24)):
        output("batch", path, "--steps", steps, "--out", tmp_path / "b.npz")
        assert read(tmp_path / "b.npz")["tokens"].shape[1] == size
    line = failing("batch", path, "--steps", "0:4", "--out", tmp_path / "b.npz")
    assert "the batch is 8 sequences at first and 16 from step 3 on" in line


def test_step(numbered: str, tmp_path: pathlib.Path, output: Said) -> None:
    path = written(tmp_path, **small(numbered))
    output("batch", path, "--steps", "4", "--out", tmp_path / "b.npz")
    tokens = read(tmp_path / "b.npz")["tokens"][0]
    found = json.loads(output("inspect", path, "--step", "5", "--json"))
    assert (found["samples"], len(found["rows"]), found["logged"]) == ([96, 119], 24, None)
    for row, expected in zip(found["rows"], tokens.tolist(), strict=True):
        assert [token for span in row["spans"] for token in span["ids"]] == expected
        for span in row["spans"]:
            begin, end = span["tokens"]
            d = span["document"]
            document = [65 + d // 10] + [97 + d % 10] * 5 + [0]
            assert document[begin:end] == span["ids"]
    text = output("inspect", path, "--step", "5", "--rows", "3:4")
    assert text.startswith("step 5: samples 96 to 119\n\nrow 3, sample 99\n  x document ")
    assert "and 23 more rows" in text
    (tmp_path / "config.yml").write_text(path.read_text())
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 9.25, "grad_norm": null}\n')
    assert output("inspect", tmp_path, "--step", "5").startswith(
        "step 5: samples 96 to 119, loss 9.2500\n"
    )


def test_too_much_for_one_file(numbered: str, tmp_path: pathlib.Path, failing: Said) -> None:
    path, out = written(tmp_path, **small(numbered)), tmp_path / "b.npz"
    line = failing("batch", path, "--steps", "0:30000000", "--out", out)
    assert "26 GB of tokens, expected at most 4" in line and not out.exists()


def test_any_step(numbered: str, tmp_path: pathlib.Path, output: Said) -> None:
    path, out = written(tmp_path, **small(numbered)), tmp_path / "b.npz"
    output("batch", path, "--steps", str(2**70), "--out", out)
    assert read(out)["tokens"].shape == (1, 24, 9)


def test_wrong(numbered: str, tmp_path: pathlib.Path, failing: Said) -> None:
    path, out = written(tmp_path, **small(numbered)), tmp_path / "b.npz"
    assert "--steps: '3:3', expected" in failing("batch", path, "--steps", "3:3", "--out", out)
    assert "expected a name that ends" in failing("batch", path, "--steps", "1", "--out", path)
    assert "counts its steps from 1" in failing("inspect", path, "--step", "0")
    assert "no config.yml" in failing("inspect", tmp_path, "--step", "1")
    line = failing("batch", path, "--steps", "1", "--out", out, "--split", "valid")
    assert "the valid split is empty" in line
    path = written(tmp_path, **small(numbered, **{"rampup-batch-size": [7, 8, 48]}))
    line = failing("batch", path, "--steps", "1", "--out", out)
    assert "rampup_batch_size: 8 at a time from 7 on does not come to train_batch_size 24" in line
    assert not out.exists()


# --- Training on preferences ------------------------------------------------------------------


def test_pairs(tmp_path: pathlib.Path, output: Said) -> None:
    data = pairs(tmp_path, [([65], [66, 0])], [([65], [67, 68, 0])]).train
    keys = {
        "train-impl": "dpo",
        "pos-train-data-paths": list(data.paths),
        "neg-train-data-paths": list(data.rejected),
        "pos-train-label-data-paths": list(data.labels),
        "neg-train-label-data-paths": list(data.rejected_labels),
        "seq-length": 5,
        "train-batch-size": 2,
        "train-iters": 4,
        "tokenizer-type": "CharLevelTokenizer",
    }
    path = written(tmp_path, **keys)
    out = output("batch", path, "--steps", "1:3", "--out", tmp_path / "x.npz")
    assert "tokens [2, 2, 2, 6], weights [2, 2], labelled [2, 2, 2, 5]" in out
    tokens = read(tmp_path / "x.npz")["tokens"]
    assert tokens[1, 1].tolist() == [[65, 66, 0, 0, 0, 0], [65, 67, 68, 0, 0, 0]]
    page = output("inspect", path, "--step", "1").splitlines()
    assert page[2].startswith("row 0, sample 0, 5 labels count")
    assert [line.split(":")[0].strip() for line in page[3:5]] == ["chosen", "rejected"]
    assert page[4].endswith("r_document document 0, tokens 0 to 4: ACD")
    shown = json.loads(output("inspect", path, "--step", "1", "--json"))["rows"]
    assert shown[0]["spans"][1]["ids"] == [65, 67, 68, 0]


def test_rewards(tmp_path: pathlib.Path, output: Said) -> None:
    data = rated(tmp_path, [([65], [66, 0])], [0.5]).train
    keys = {
        "train-impl": "kto",
        "train-data-paths": list(data.paths),
        "train-label-data-paths": list(data.labels),
        "train-reward-data-paths": list(data.rewards),
        "seq-length": 5,
        "train-batch-size": 2,
        "train-iters": 4,
        "tokenizer-type": "CharLevelTokenizer",
    }
    path = written(tmp_path, **keys)
    page = output("inspect", path, "--step", "1").splitlines()
    assert page[2].startswith("row 0, sample 0, 2 labels count, reward 0.5")
