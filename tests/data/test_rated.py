"""Texts with rewards: KTO's and REINFORCE's fields, by default and as NeoX, and what is wrong."""

import itertools
import json
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxneox.data import BatchSizes, GivenBatches, reference_record
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.rewards import advantages, prompt_path
from jaxneox.errors import UserError
from tests.data.small_preferences import (
    MASKED,
    S,
    Text,
    every,
    loader,
    rated,
    write,
    write_reference,
    write_texts,
)

TEXTS: list[Text] = [([1, 2], [10, 0]), ([3], [11, 12, 0]), ([4, 5, 6], [13, 0])]
WIDTH = S + 1


def filled(values: list[Any], width: int = WIDTH) -> list[Any]:
    return [*values, *[0] * width][:width]


def of(fields: dict[str, np.ndarray], first: int) -> dict[str, list[Any]]:
    """The first example whose text begins with this token."""
    row = np.argmax(fields["tokens"][:, 0] == first)
    assert fields["tokens"][row, 0] == first
    return {name: values[row].tolist() for name, values in fields.items()}


# --- KTO --------------------------------------------------------------------------------------


def test_kto_has_a_mismatched_completion(tmp_path: pathlib.Path) -> None:
    found = loader(rated(tmp_path, TEXTS, [1, -1, 0.25]), "kto")
    shapes = {name: (f.shape, f.dtype.name) for name, f in found.fields(0).items()}
    assert shapes == {
        "tokens": ((4, 6), "int32"),
        "weights": ((4,), "float32"),
        "labelled": ((4, 5), "float32"),
        "reward": ((4,), "float32"),
        "kl_tokens": ((4, 6), "int32"),
        "kl_labelled": ((4, 5), "float32"),
    }
    assert of(every(found), 1) == {
        "tokens": [1, 2, 10, 0, 0, 0],
        "weights": 1,
        "labelled": [0, 1, 1, 0, 0],
        "reward": 1,
        "kl_tokens": [1, 2, 11, 12, 0, 0],
        "kl_labelled": [0, 1, 1, 1, 0],
    }
    last = of(every(found), 4)
    assert last["reward"] == 0.25 and last["kl_tokens"] == [4, 5, 6, 10, 0, 0]


def test_mismatched_texts_walked_slowly(tmp_path: pathlib.Path) -> None:
    """Of random lengths: longer than a row, without a prompt, without an answer."""
    rng = np.random.default_rng(0)
    texts: list[Text] = [
        ([k + 1] + [50] * int(rng.integers(0, 6)), rng.integers(1, 99, rng.integers(0, 6)).tolist())
        for k in range(40)
    ]
    texts[7] = ([], [8, 60])
    fields = every(loader(rated(tmp_path, texts, [1] * 40), "kto", num_samples=90))
    useful = [k for k, (prompt, answer) in enumerate(texts) if answer and len(prompt) < S]
    assert 10 < len(useful) < 36 and {row[0] - 1 for row in fields["tokens"]} == set(useful)
    for k in useful:
        prompt, _ = texts[k]
        _, answer = texts[next((j for j in useful if j > k), useful[0])]
        found = of(fields, k + 1)
        assert found["kl_tokens"] == filled(prompt + answer)
        assert found["kl_labelled"] == filled([0] * len(prompt) + [1] * len(answer))[1:]


def test_neox_repeats_the_reward(tmp_path: pathlib.Path) -> None:
    """And gives the token of the next text that text's reward."""
    found = loader(rated(tmp_path, TEXTS, [1, -1, 3]), "kto", as_neox=True)
    assert of(every(found), 1) == {
        "tokens": [1, 2, 10, 0, 3, 0],
        "weights": 1,
        "labelled": [0, 1, 1, 0, 0],
        "rewards": [1, 1, 1, 1, -1],
    }
    assert of(every(found), 4)["rewards"] == [3] * 5
    short = loader(rated(tmp_path, [([1], [2]), ([3], [4])], [0.5, -1]), "kto", as_neox=True)
    assert of(every(short), 1)["rewards"] == [0.5, 0.5, -1, 0, 0]


def test_kto_reference(tmp_path: pathlib.Path) -> None:
    data = rated(tmp_path, TEXTS, [1, -1, 1])
    write_reference(data.train.paths[0], [[-d] * S for d in range(3)])
    fields = every(loader(data, "kto", as_neox=True, reference="ref"))
    assert of(fields, 3)["reference"] == [-1] * S and "kl_reference" not in fields
    with pytest.raises(UserError, match=r"t_document_ref_kl\.idx: no such file"):
        loader(data, "kto", reference="ref")
    write_reference(data.train.paths[0], [[-10 - d] * S for d in range(3)], "_kl")
    found = of(every(loader(data, "kto", reference="ref")), 4)
    assert (found["reference"], found["kl_reference"]) == ([-2] * S, [-12] * S)


@pytest.mark.parametrize("name", ["tokens", "kl_tokens"])
def test_given_tokens_are_those_of_the_vocabulary(tmp_path: pathlib.Path, name: str) -> None:
    """In every field that has some, in Python too."""
    batch = loader(rated(tmp_path, TEXTS, [1, -1, 1]), "kto").fields(0)
    shapes = {field: values.shape[1:] for field, values in batch.items()}
    limits = {"sizes": BatchSizes(4), "seq_length": S, "vocab_size": 100, "shapes": shapes}
    assert GivenBatches([batch], **limits).fields(0).keys() == batch.keys()
    for wrong, says in ((100, "is 100, outside the vocabulary of 100"), (0.5, "expected integers")):
        changed = batch | {name: np.where(np.arange(WIDTH) == 2, wrong, batch[name])}
        with pytest.raises(UserError, match=rf"batch 0: {name}.*{says}"):
            GivenBatches([changed], **limits).fields(0)


def test_a_reference_of_other_rows(tmp_path: pathlib.Path) -> None:
    """A record refuses other texts, another length and other rows of the baseline."""
    data = rated(tmp_path, TEXTS, [1, -1, 1])
    tokens, side = data.train.paths[0], IndexedDataset(data.train.paths[0])
    for suffix, decide in (("", ()), ("_kl", (np.array([2, 1, 3]), np.ones(3, bool)))):
        write_reference(tokens, [[-1.0] * S] * 3, suffix)
        rows = reference_record.identity_of_rows(side, S, *decide)
        reference_record.write(pathlib.Path(f"{tokens}_ref{suffix}"), rows, "a model")
    every(loader(data, "kto", reference="ref"))
    write_texts(tmp_path / "t", [([1], [2, 10, 0]), *TEXTS[1:]])  # the same tokens elsewhere
    with pytest.raises(UserError, match=r"t_document_ref_kl\.idx: was computed of other rows"):
        loader(data, "kto", reference="ref")
    write_texts(tmp_path / "t", [([1, 9], [10, 0]), *TEXTS[1:]])
    for kind in ("kto", "reinforce"):
        with pytest.raises(UserError, match=r"t_document_ref\.idx: was computed of other rows"):
            loader(data, kind, reference="ref")
    (tmp_path / "t_document_ref.json").write_text("[]")
    with pytest.raises(UserError, match=r"t_document_ref\.json: is no record"):
        loader(data, "kto", reference="ref")


def test_a_mismatched_token_out_of_the_vocabulary(tmp_path: pathlib.Path) -> None:
    """The text that it is from is in another batch."""
    data = rated(tmp_path, [([1], [2]), ([3], [4, 100])], [1, -1])
    found = loader(data, "kto", num_samples=9, global_batch=1)
    first = next(step for step in range(8) if found.examples.fields(
        found.numbers(step))["tokens"][0, 0] == 1)  # fmt: skip
    with pytest.raises(
        UserError, match=r"t_document\.bin: token 2 of document 1, byte 8, is 100, o"
    ):
        found.fields(first)


def test_one_text_is_its_own_mismatch(tmp_path: pathlib.Path) -> None:
    found = of(every(loader(rated(tmp_path, TEXTS[:1], [1]), "kto")), 1)
    assert found["kl_tokens"] == found["tokens"]


# --- REINFORCE --------------------------------------------------------------------------------


def with_prompts(tmp_path: pathlib.Path, prompts: list[Any], dtype: str = "int32") -> None:
    write(tmp_path / "t_prompt_document", [[prompt] for prompt in prompts], dtype)


def test_reinforce(tmp_path: pathlib.Path) -> None:
    data = rated(tmp_path, TEXTS, [1.0, 2.0, 4.5])
    with_prompts(tmp_path, [5, 5, 2])
    for as_neox in (False, True):  # a row of NeoX's server is one text too
        fields = every(loader(data, "reinforce", as_neox=as_neox))
        assert of(fields, 3) == {
            "tokens": [3, 11, 12, 0, 0, 0],
            "weights": [1, 1, 1, 0, 0],
            "reward": 2,
            "raw_reward": 2,
        }
        assert of(fields, 4)["reward"] == 4.5 - 1.5 and of(fields, 4)["raw_reward"] == 4.5
    found = loader(data, "reinforce", leave_one_out=True)
    assert {of(every(found), k)["reward"] for k in (1, 3, 4)} == {-1, 1, 0}
    write_reference(data.train.paths[0], [[-d] * S for d in range(3)])
    fields = every(loader(data, "reinforce", reference="ref"))
    assert of(fields, 4)["reference"] == [-2] * S
    assert "reference" not in every(loader(data, "reinforce", reference="ref", kl_weight=0.0))


def test_advantages_walked_slowly() -> None:
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=700)
    bounds = [0, *sorted(rng.choice(np.arange(1, 700), 250, replace=False).tolist()), 700]
    groups = [range(a, b) for a, b in itertools.pairwise(bounds)]
    recent, others = np.zeros(700), np.zeros(700)
    means: list[float] = []
    for group in groups:
        for i in group:
            recent[i] = rewards[i] - (np.mean(means[-100:]) if means else 0)
            rest = [rewards[j] for j in group if j != i]
            others[i] = rewards[i] - np.mean(rest) if rest else 0
        means.append(float(np.mean([rewards[i] for i in group])))
    found = advantages(rewards, np.array(bounds), leave_one_out=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, recent, atol=1e-6)
    found = advantages(rewards, np.array(bounds), leave_one_out=True)
    np.testing.assert_allclose(found, others, atol=1e-6)


def test_without_prompts_each_text_has_its_own(tmp_path: pathlib.Path) -> None:
    data = rated(tmp_path, TEXTS, [1.0, 2.0, 4.5])
    fields = every(loader(data, "reinforce"))
    assert [of(fields, k)["reward"] for k in (1, 3, 4)] == [1, 1, 3]
    with pytest.raises(
        UserError, match=r"t_prompt_document: no such file, and reinforce_leave_one_out"
    ):
        loader(data, "reinforce", leave_one_out=True)
    assert prompt_path("a/b_reward_document.bin") == "a/b_prompt_document"
    assert prompt_path("http://x/b_reward_document") == "http://x/b_prompt_document"
    assert prompt_path("rewards") is None


def test_a_completion_alone_is_said(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rated(tmp_path, TEXTS, [1, 2, 4])
    with_prompts(tmp_path, [5, 5, 2])
    loader(data, "reinforce", leave_one_out=True)
    assert "t_prompt_document: 1 of 2 prompts have only one completion" in capsys.readouterr().err
    loader(data, "reinforce")
    assert not capsys.readouterr().err


def test_wrong_prompts(tmp_path: pathlib.Path) -> None:
    data = rated(tmp_path, TEXTS, [1, 2, 4])
    with_prompts(tmp_path, [5, 2, 5])
    with pytest.raises(
        UserError, match=r"t_prompt_document\.bin: document 2 has prompt 5, and so has an ea"
    ):
        loader(data, "reinforce")
    with_prompts(tmp_path, [5, 2])
    with pytest.raises(
        UserError, match=r"t_prompt_document\.idx: 2 documents, but .*expected one p"
    ):
        loader(data, "reinforce")
    with_prompts(tmp_path, [5, 2, 1], "float32")
    with pytest.raises(UserError, match=r"t_prompt_document\.idx: holds float32 numbers, expected"):
        loader(data, "reinforce")


# --- Both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kto", "reinforce"])
@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1, 2], r"idx: 2 documents, but .*t_document\.idx has 3: expected one reward for each"),
        ([1, [2.0, 3.0], 4], r"idx: document 1 has 2 numbers, expected one reward"),
        ([1, 2, []], r"idx: document 2 has 0 numbers, expected one reward"),
        ([1, float("nan"), 2], r"bin: the reward of document 1 is nan, expected a finite number"),
        ([1, 2, float("inf")], r"bin: the reward of document 2 is inf, expected a finite number"),
    ],
)
def test_wrong_rewards(tmp_path: pathlib.Path, kind: str, rewards: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=r"t_reward_document\." + message):
        loader(rated(tmp_path, TEXTS, rewards), kind)


def test_rewards_of_other_types(tmp_path: pathlib.Path) -> None:
    data = rated(tmp_path, TEXTS, [1, 2, 3])
    for dtype in ("int8", "uint16", "int64"):
        write(tmp_path / "t_reward_document", [[1], [2], [3]], dtype)
        assert of(every(loader(data, "kto")), 4)["reward"] == 3
    write(tmp_path / "t_reward_document", [[1], [2], [3]], "float64")
    with pytest.raises(UserError, match=r"t_reward_document\.idx: holds float64 numbers, expected"):
        loader(data, "kto")


@pytest.mark.parametrize("kind", ["kto", "reinforce"])
def test_a_function_of_the_step_and_its_fingerprint(tmp_path: pathlib.Path, kind: str) -> None:
    data = rated(tmp_path, TEXTS, [1, 2, 3])
    whole = loader(data, kind)
    batches = [whole.fields(step) for step in range(5)]
    for step in (4, 1):
        fresh = loader(data, kind).fields(step)
        for name, values in batches[step].items():
            np.testing.assert_array_equal(fresh[name], values)
            for rows in ([1, 3], slice(0, 0)):
                np.testing.assert_array_equal(whole.fields(step, rows)[name], values[rows])
    same = whole.fingerprint()
    assert json.loads(json.dumps(same)) == same == loader(data, kind).fingerprint()
    others = [loader(data, kind, seed=1), loader(replace(data, eod_mask_loss=True), kind)]
    if kind == "kto":
        others.append(loader(data, kind, as_neox=True))
    with_prompts(tmp_path, [1, 1, 1])
    if kind == "reinforce":
        others += [loader(data, kind), loader(data, kind, leave_one_out=True)]
    found = [other.fingerprint() for other in others]
    found.append(loader(rated(tmp_path, TEXTS, [1, 2, 4]), kind).fingerprint())
    assert len({json.dumps(fingerprint) for fingerprint in (same, *found)}) == 1 + len(found)


def test_labels_that_are_no_tokens(tmp_path: pathlib.Path) -> None:
    data = rated(tmp_path, TEXTS, [1, 2, 3])
    write(tmp_path / "t_label_document", [[MASKED] * len(p) + [9] * len(a) for p, a in TEXTS])
    with pytest.raises(UserError, match=r"t_label_document\.bin: token \d of document \d, byte"):
        every(loader(data, "kto"))
