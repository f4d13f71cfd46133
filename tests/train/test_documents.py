"""A whole run on packed documents, each a text of its own."""

import json
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxneox
from jaxneox.data import open_loader
from jaxneox.data.loader import SampleLoader
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.train.plan import build_plan
from tests.config.cases import run as config
from tests.train.runs import WORDS, error, metrics, succeeds, write_yaml

KEYS: dict[str, Any] = {
    "reset_attention_mask": True,
    "reset_position_ids": True,
    "eod_mask_loss": True,
    "pos_emb": "learned",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "init_method_std": 0.2,  # so that what is seen matters from the first step on
    "extra_save_iters": [0],
    "exit_interval": 1,
}


@pytest.mark.slow
def test_the_loss_is_that_of_each_document_alone(tmp_path: Path) -> None:
    """The first step's, by the function that `jaxneox.load` gives for the weights before it."""
    chance = random.Random(0)
    texts = (" ".join(chance.choices(WORDS, k=chance.randint(1, 3))) for _ in range(400))
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    succeeds(write_yaml(tmp_path, **KEYS), "--mesh", "dp=1", "--save", tmp_path / "run")
    model = jaxneox.load(tmp_path / "run", step=0)
    tokenizer, length = model.tokenizer, model.config.model.seq_length
    assert tokenizer is not None and model.config.data.reset_attention_mask
    loader = open_loader(model.config.data_run, tokenizer, "train")
    assert loader is not None
    tokens, weights = loader.read(0, range(4))
    assert weights is not None
    spans = [
        (row, start, end)
        for row, its in enumerate(tokens[:, :-1])
        for start, end in spans_of(its.tolist(), tokenizer.eod)
    ]
    assert len(spans) > 6
    alone = np.zeros((len(spans), length), np.int32)
    for text, (row, start, end) in zip(alone, spans, strict=True):
        text[: end - start] = tokens[row, start:end]
    logprobs = np.asarray(jax.nn.log_softmax(model(alone)), np.float64)
    losses = [
        -weights[row, start + i] * logprobs[text, i, tokens[row, start + i + 1]]
        for text, (row, start, end) in enumerate(spans)
        for i in range(end - start)
    ]
    expected = sum(losses) / weights.sum()
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-6)


def spans_of(tokens: list[int], eod: int | None) -> list[tuple[int, int]]:
    """Begin and end of the documents in a row."""
    ends = [i + 1 for i, token in enumerate(tokens) if token == eod and i + 1 < len(tokens)]
    return list(zip([0, *ends], [*ends, len(tokens)], strict=True))


@pytest.mark.parametrize("key", ["reset_attention_mask", "reset_position_ids"])
def test_without_an_end_of_documents_they_cannot_be_told_apart(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: true, but there is no tokenizer with an <"):
        build_plan(config(**{key: True}), {"dp": 1})


@pytest.mark.slow
def test_documents_as_the_dataset_has_them(tmp_path: Path) -> None:
    """The same as by their end tokens, on which a dataset with one in each document would agree."""
    chance = random.Random(0)
    texts = (" ".join(chance.choices(WORDS, k=chance.randint(1, 3))) for _ in range(400))
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    by_token = KEYS | {"exit_interval": 3, "extra_save_iters": []}
    succeeds(write_yaml(tmp_path, **by_token), "--mesh", "dp=1", "--save", tmp_path / "token")
    dropped = ("reset_attention_mask", "reset_position_ids", "eod_mask_loss")
    by_data = {name: value for name, value in by_token.items() if name not in dropped}
    yaml = write_yaml(tmp_path, **by_data, separate_documents=True)
    succeeds(yaml, "--mesh", "dp=1", "--save", tmp_path / "data")
    expected = [row["loss"] for row in metrics(tmp_path / "token")]
    assert [row["loss"] for row in metrics(tmp_path / "data")] == pytest.approx(expected, rel=1e-6)
    for mesh in ("pp=2,tp=2", "dp=2,cp=2"):
        run = tmp_path / mesh
        succeeds(yaml, "--mesh", mesh, "--save", run, "--set", "gradient_accumulation_steps=2")
        assert [row["loss"] for row in metrics(run)] == pytest.approx(expected, rel=1e-6)
    assert "keep one of the two" in error(yaml, "--set", "reset_position_ids=true", "--mesh=dp=1")


def test_a_blend_numbers_the_documents_of_each_row(tmp_path: Path) -> None:
    """From 1 in each row, where its tokens are another document's."""
    paths = []
    for k, sizes in enumerate(([5, 3, 9, 4], [20, 2, 2])):
        paths.append(tmp_path / f"part{k}")
        with IndexedWriter(paths[-1], np.int32) as writer:
            for number, size in enumerate(sizes):
                writer.add(np.full(size, 100 * k + number + 1))
    keys = {"train_data_paths": [str(path) for path in paths], "separate_documents": True}
    keys |= {"pack_impl": "pack_until_overflow", "data_path": None, "eval_iters": 0}
    loader = open_loader(config(**keys, seq_length=12).data_run, None, "train")
    assert isinstance(loader, SampleLoader)
    for step in range(3):
        fields = loader.fields(step)
        for row, number in enumerate(loader.numbers(step)):
            documents = np.zeros(13, int)
            for k, (_, span) in enumerate(loader.samples.spans(int(number)), 1):
                documents[span.column : span.column + span.length] = k
            np.testing.assert_array_equal(fields["documents"][row], documents[:-1])
            inside = (documents[1:] == documents[:-1]) & (documents[1:] > 0)
            np.testing.assert_array_equal(fields["weights"][row], inside)
