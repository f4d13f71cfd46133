"""Perplexities: windows, figures, intervals and what stops them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.errors import UserError
from jaxneox.evaluate import local
from jaxneox.evaluate.corpus import Corpus, read, texts_of, windows
from jaxneox.evaluate.perplexity import difference, measured, ratio_error
from jaxneox.infer.scoring import Request, Scored
from tests.infer.models import speaker
from tests.infer.test_stream import HURRY

MODEL = speaker()
CFG, TOKENIZER = MODEL.config.model, MODEL.tokenizer


@given(st.lists(st.integers(1, 99), max_size=60), st.integers(1, 12), st.integers(1, 12))
@HURRY
def test_each_token_is_scored_once_after_as_much_as_fits(ids, room: int, stride: int) -> None:
    stride = min(stride, room)
    found = windows(ids, 0, room, stride)
    assert [t for w in found for t in w.tokens[w.given :]] == ids
    for number, window in enumerate(found):
        assert len(window.tokens) <= room + 1
        context = window.given - 1 if number else 0
        assert context >= min(room - stride, sum(map(len, found[:number])) or 0) or number == 0


@given(st.lists(st.integers(1, 99), max_size=60), st.integers(1, 12))
@HURRY
def test_without_a_stride_they_are_lm_evals_windows(ids: list[int], room: int) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="needs the evaluate extra")
    theirs = utils.get_rolling_token_windows(ids, 0, room, 1)
    pairs = [utils.make_disjoint_window(window) for window in theirs]
    ours = windows(ids, 0, room, None)
    assert [(w.tokens[: w.given], w.tokens[w.given :]) for w in ours] == pairs


def fake(losses: list[list[float]]) -> list[Scored]:
    return [Scored(-np.array(row, np.float32), np.zeros(len(row), bool)) for row in losses]


def corpus(losses: list[list[float]]) -> Corpus:
    requests = [Request([0] * (len(row) + 1), 1) for row in losses]
    return Corpus("x", requests, bytes=10, words=2)


def test_figures_by_hand() -> None:
    losses = [[1.0, 2.0], [3.0]]
    found = measured(corpus(losses), fake(losses))
    assert found.loss == 2 and found.perplexity == math.exp(2)
    assert found.per(10) == pytest.approx(math.exp(0.6)) and found.per(2) == math.exp(3)
    assert found.error == pytest.approx(math.sqrt(((3 - 4) ** 2 + (3 - 2) ** 2) * 2) / 3)
    figures = found.figures()
    assert figures["byte_perplexity"] == pytest.approx(math.exp(0.6))
    assert [w["tokens"] for w in figures["windows"]] == [2, 1]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        counts = rng.integers(5, 50, 60)
        sums = counts * rng.normal(3, 0.5, 60)
        mean, error = sums.sum() / counts.sum(), ratio_error(sums, counts)
        inside += abs(mean - 3) <= 1.96 * error
    assert 0.92 <= inside / 400 <= 0.97


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(1)
    base = [rng.normal(3, 1, 20).tolist() for _ in range(30)]
    worse = [[x + 0.1 + rng.normal(0, 0.01) for x in row] for row in base]
    one, other = (measured(corpus(x), fake(x)) for x in (worse, base))
    apart, error = difference(one, other)
    assert apart == pytest.approx(0.1, abs=1e-3) and error < 1e-3 < one.error
    shorter = base[:-1]
    with pytest.raises(UserError, match="same tokenizer"):
        difference(one, measured(corpus(shorter), fake(shorter)))


def test_texts_lines_and_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the old man\nand the sea")
    jsonl = '{"text": "the old man"}\n\n{"text": "an\u2028d"}\n'  # JSON leaves U+2028 as it is
    (tmp_path / "a.jsonl").write_text(jsonl, encoding="utf-8")
    np.savez(tmp_path / "a.npz", windows=np.ones((3, 5), np.int32), other=np.ones((2, 2), int))
    text = read(str(tmp_path / "a.txt"), CFG, TOKENIZER, None, None)
    assert (text.tokens, text.bytes, text.words) == (23, 23, 6)
    assert len(read(str(tmp_path / "a.jsonl"), CFG, TOKENIZER, None, None).requests) == 2
    lines = read(str(tmp_path / "a.jsonl"), CFG, TOKENIZER, None, 1)
    assert (lines.tokens, lines.words) == (11, 3)
    rows = read(str(tmp_path / "a.npz"), CFG, None, None, None)
    assert (rows.tokens, len(rows.requests), rows.bytes) == (12, 3, None)


WRONG = {
    "a.txt": (b"", "no tokens to score"),
    "b.txt": (b"\xff\xfe", "byte 0 is no UTF-8"),
    "a.jsonl": (b'{"text": "x"}\n{"text"\n', "line 2: no JSON"),
    "b.jsonl": (b'{"words": "x"}\n', 'line 1: expected an object with a string "text"'),
    "c.jsonl": (b"[1]\n", "line 1: expected an object"),
    "d.jsonl": (b'{"text": "\\ud800"}\n', "line 1: half of a surrogate pair"),
    "e.jsonl": (b"[" * 200_000, "line 1: no JSON"),
    "f.jsonl": (b'{"text": ' + b"1" * 5000 + b"}\n", "line 1: no JSON"),
    "a.npz": (b"PK no", "no .npz file"),
    "b.npz": (b"", "no .npz file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named(name: str, tmp_path: Path) -> None:
    content, says = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read(str(tmp_path / name), CFG, TOKENIZER, None, None)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.ones((2, 3))}, "expected one array of whole numbers"),
        ({"x": np.ones((2, 3), int), "y": np.ones((2, 3), int)}, "expected one array"),
        ({"x": np.ones((2, 60), int)}, "rows of 2 to 49 tokens"),
        ({"x": np.full((2, 4), 640)}, "window 0: token 640.*640"),
        ({"x": np.array([[object()]])}, "no .npz file of plain arrays"),
    ],
)
def test_wrong_arrays_are_named(arrays, says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=says):
        read(str(tmp_path / "a.npz"), CFG, None, None, None)


def test_text_without_a_tokenizer_and_losses_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="no tokenizer"):
        read(str(tmp_path / "a.txt"), CFG, None, None, None)
    with pytest.raises(UserError, match="--stride 0"):
        read(str(tmp_path / "a.txt"), CFG, TOKENIZER, 0, None)
    with pytest.raises(UserError, match="window 1: a token's log-probability is nan"):
        measured(corpus([[1.0], [2.0]]), fake([[1.0], [math.nan]]))


def test_json_is_plain() -> None:
    losses = [[1.0, 2.0]]
    text = json.dumps(measured(corpus(losses), fake(losses)).figures(), allow_nan=False)
    assert json.loads(text)["perplexity_95"] is None


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, said in (("a.txt", "text"), ("a.jsonl", '{"text": "text"}\n')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + said.encode())
        assert [text for _, text in texts_of(str(tmp_path / name))] == ["text"]
    assert local.json_lines(tmp_path / "a.jsonl") == [{"text": "text"}]
