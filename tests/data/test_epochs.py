"""Whole passes over the data: every sample once in each, in another order."""

from typing import Any

import numpy as np
import pytest

import jaxneox
from jaxneox.config import Settings
from jaxneox.data import open_loader
from jaxneox.data.epoch_steps import with_steps
from jaxneox.data.loader import SampleLoader
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.train.session import fit_to_tokens
from tests.config.cases import SMALLEST, error, run

LENGTH, BATCH = 4, 3


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two datasets of 41 and of 30 tokens, all of them different."""
    folder, first, paths = tmp_path_factory.mktemp("epochs"), 1, []
    for name, sizes in (("a", [7, 9, 1, 12, 12]), ("b", [10, 20])):
        with IndexedWriter(folder / name, np.dtype(np.int32)) as writer:
            for size in sizes:
                writer.add(np.arange(first, first + size))
                first += size + 1  # documents that follow one another do not join
        paths.append(str(folder / name))
    return paths


def settings(corpora: list[str], **keys: Any) -> Settings:
    own = {"train_epochs": 3, "seq_length": LENGTH, "train_micro_batch_size_per_gpu": BATCH}
    given = {"train_data_paths": corpora, "padded_vocab_size": 128, "tokenizer_type": "HFTokenizer"}
    small = {name: x for name, x in SMALLEST.items() if name != "train_iters"}
    return with_steps(Settings(small | own | given | keys), 1, None)


def loader(corpora: list[str], **keys: Any) -> SampleLoader:
    found = open_loader(settings(corpora, **keys).data_run(1, None), None, "train")
    assert isinstance(found, SampleLoader)
    return found


def rows(loader: SampleLoader, steps: int, first: int = 0) -> np.ndarray:
    return np.concatenate([loader.batch(step) for step in range(first, steps)])


def test_a_pass_has_every_sample_once_and_the_next_another_order(corpora: list[str]) -> None:
    """10 samples of the first dataset and 7 of the second, three times over."""
    assert settings(corpora).train_iters == 3 * 17 // BATCH == 17
    found = rows(loader(corpora), 17)
    passes = found.reshape(3, 17, LENGTH + 1)
    for one in passes:
        inputs = one[:, :-1].ravel()
        assert len(set(inputs.tolist())) == 17 * LENGTH, "no token is there twice"
        of_the_first = (one[:, 0] < 47).tolist()
        assert of_the_first not in (sorted(of_the_first), sorted(of_the_first)[::-1]), "mixed"
    orders = [one[:, 0].tolist() for one in passes]
    assert orders[0] != orders[1] != orders[2] and orders[0] != sorted(orders[0])
    assert len({tuple(sorted(order)) for order in orders}) > 1, "documents are shuffled too"


def test_the_order_is_a_function_of_the_step_alone(corpora: list[str]) -> None:
    """Of neither the passes, nor where a run begins, nor which rows a host reads."""
    longer, whole = loader(corpora, train_epochs=5), loader(corpora)
    np.testing.assert_array_equal(rows(longer, 17), rows(whole, 17))
    np.testing.assert_array_equal(rows(loader(corpora), 17, first=9), rows(whole, 17)[9 * BATCH :])
    np.testing.assert_array_equal(whole.read(7, [2, 0]).tokens, whole.batch(7)[[2, 0]])
    assert longer.fingerprint() == whole.fingerprint()
    assert loader(corpora, seed=5).fingerprint() != whole.fingerprint()
    assert whole.sample_numbers(16) == (48, 50)


def test_labels_mask_and_documents_are_told_apart(corpora: list[str]) -> None:
    """A label dataset that masks nothing, and each document a text of its own."""
    plain, labelled = loader(corpora), loader(corpora, train_label_data_paths=corpora)
    np.testing.assert_array_equal(rows(labelled, 17), rows(plain, 17))
    fields = loader(corpora, separate_documents=True).fields(4)
    alike = np.diff(fields["documents"], axis=1) == 0
    inside = np.diff(fields["tokens"][:, :-1], axis=1) == 1  # tokens of a document ascend
    np.testing.assert_array_equal(alike, inside)


def test_one_dataset_and_its_split(corpora: list[str]) -> None:
    one: dict[str, Any] = {"data_path": corpora[0], "split": "60,40,0"}
    found = settings([], train_data_paths=None, train_epochs=1, **one)
    assert found.train_iters == (7 + 9 + 1 - 1) // LENGTH // BATCH == 1
    rows = loader([], train_data_paths=None, train_epochs=1, **one).batch(0)
    assert rows.max() <= 19  # the last token of the third document


def test_a_batch_that_grows_takes_fewer_of_its_first_steps(corpora: list[str]) -> None:
    growing = {"train_batch_size": 6, "rampup_batch_size": [3, 3, 9]}
    found = settings(corpora, **growing)
    assert found.train_iters == 3 + (51 - 9) // 6


def test_neox_repeats_its_first_pass(corpora: list[str]) -> None:
    """Its own batches are compared in tests/train/test_neox_keys.py."""
    one = loader(corpora[:1], neox_compat=True)
    assert settings(corpora[:1], neox_compat=True).train_iters == 9 // BATCH * 3
    of_five = {"neox_compat": True, "train_micro_batch_size_per_gpu": 5}
    assert settings(corpora[:1], **of_five).train_iters == 9 // 5 * 3, "without the last sample"
    found = rows(one, 9).reshape(3, -1)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_what_train_iters_says_beside_it(corpora: list[str]) -> None:
    assert settings(corpora, train_iters=17).notes == []
    (note,) = settings(corpora, train_iters=20).notes
    assert note == "train_epochs: 3 of 17 samples are 17 steps: train_iters 20 gives way"
    assert settings(corpora, train_epochs=None, train_iters=5).train_iters == 5


def test_what_is_refused(corpora: list[str]) -> None:
    with pytest.raises(
        UserError, match="3 of 17 samples of seq_length 4 are fewer than a step takes"
    ):
        settings(corpora, train_micro_batch_size_per_gpu=100)
    with pytest.raises(UserError, match="3 of 0 samples of seq_length 64 are fewer"):
        settings(corpora, seq_length=64)
    with pytest.raises(UserError, match="--tokens: has batches and no epochs"):
        fit_to_tokens(Settings(SMALLEST | {"train_epochs": 1}), "tokens.npz")
    with pytest.raises(UserError, match="a Python program have no epochs"):
        jaxneox.fit(SMALLEST | {"train_epochs": 1}, lambda step: [])
    assert "pack_impl: unpacked is set" in error(train_epochs=1, pack_impl="unpacked")
    assert "train_impl: dpo is set" in error(train_epochs=1, train_impl="dpo")
    assert "train_data_weights is set" in error(
        train_epochs=1, train_data_paths=["a"], train_data_weights=[0.5]
    )
    assert run(train_epochs=1).data.passes == "reshuffled"
    assert run(train_epochs=1, neox_compat=True).data.passes == "repeated"
    assert "set it beside that key" in error(train_epochs=1, train_iters=None)
