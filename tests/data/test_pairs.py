"""Pairs: what a row has by default and as NeoX, and one line for what is wrong."""

import itertools
import json
import pathlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxneox.config.data_schema import DataConfig, DataSource
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.label_datasets import prompt_lengths
from jaxneox.data.order.pairwise import overflow_pairs, unpacked_pairs
from jaxneox.errors import UserError
from tests.data.small_preferences import (
    MASKED,
    Text,
    every,
    loader,
    pairs,
    unlabelled,
    write,
    write_reference,
    write_texts,
)

CHOSEN: list[Text] = [([1, 2], [10, 0]), ([3], [11, 12, 0]), ([4, 5, 6], [13, 0])]
REJECTED: list[Text] = [([1, 2], [20, 21, 0]), ([3], [22, 0]), ([4, 5, 6], [23, 24, 0])]


@pytest.fixture
def data(tmp_path: pathlib.Path) -> DataConfig:
    return pairs(tmp_path, CHOSEN, REJECTED)


def test_a_row_is_one_text(data: DataConfig) -> None:
    fields = loader(data).fields(0)
    assert {name: (f.shape, f.dtype.name) for name, f in fields.items()} == {
        "tokens": ((4, 2, 6), "int32"),
        "weights": ((4,), "float32"),
        "labelled": ((4, 2, 5), "float32"),
    }
    assert fields["weights"].tolist() == [1] * 4
    fields = every(loader(data))
    first = np.argmax(fields["tokens"][:, 0, 0] == 1)
    assert fields["tokens"][first].tolist() == [[1, 2, 10, 0, 0, 0], [1, 2, 20, 21, 0, 0]]
    assert fields["labelled"][first].tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]]


def test_neox_adds_a_token_of_the_next_text(data: DataConfig) -> None:
    for fields in (
        every(loader(data, as_neox=True)),
        every(loader(unlabelled(data), as_neox=True)),
    ):
        row = fields["tokens"][fields["tokens"][:, 0, 0] == 1][0]
        assert row.tolist() == [[1, 2, 10, 0, 3, 0], [1, 2, 20, 21, 0, 3]]
    assert fields["labelled"].min() == 1  # without labels, padding as well


def test_without_labels_all_of_a_text_counts(data: DataConfig) -> None:
    fields = every(loader(unlabelled(data)))
    mask = fields["labelled"][fields["tokens"][:, 0, 0] == 1][0]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]


def test_the_leaked_token_has_its_label(tmp_path: pathlib.Path) -> None:
    data = pairs(tmp_path, [([1], [2]), ([], [3, 4])], [([1], [5]), ([], [6, 7])])
    with_it, without = every(loader(data, as_neox=True)), every(loader(data))
    for fields, row, mask in (
        (with_it, [1, 2, 3, 0, 0, 0], [1, 1, 0, 0, 0]),
        (without, [1, 2, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
    ):
        found = fields["tokens"][:, 0, 0] == 1
        assert fields["tokens"][found][0, 0].tolist() == row
        assert fields["labelled"][found][0, 0].tolist() == mask


def test_eod_mask(data: DataConfig, tmp_path: pathlib.Path) -> None:
    data = pairs(tmp_path, [([1], [0, 2])], [([1], [3, 2])])
    fields = every(loader(replace(data, eod_mask_loss=True)))
    assert fields["labelled"][0].tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_what_is_cut_and_left_out_is_said(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, late = list(range(10, 20)), [9] * 5
    chosen: list[Text] = [([1], [2]), ([1], long), (late, [2]), ([1], [])]
    rejected: list[Text] = [([1], [3]), ([1], [3]), (late, [3]), ([1], [3])]
    data = pairs(tmp_path, chosen, rejected)
    tokens = every(loader(data))["tokens"]
    assert set(tokens[:, 0, 0]) == {1} and set(tokens[:, 0, 1]) == {2, 10}
    assert tokens[tokens[:, 0, 1] == 10][0, 0].tolist() == [1, 10, 11, 12, 13, 14]
    assert capsys.readouterr().err.splitlines() == [
        "note: train: c_document: 1 of 4 pairs is longer than seq-length + 1 = 6 tokens and is cut",
        "note: train: c_document: 2 of 4 pairs left out: 2 without a label that counts among the "
        "first 5 tokens of a text",
    ]
    tokens = every(loader(replace(data, allow_chopped=False)))["tokens"]
    assert set(tokens[:, 0, 1]) == {2}
    assert capsys.readouterr().err.splitlines() == [
        "note: train: c_document: 3 of 4 pairs left out: 2 without a label that counts among the "
        "first 5 tokens of a text, 1 longer than seq-length + 1 = 6 tokens with allow-chopped: "
        "false"
    ]
    every(loader(pairs(tmp_path, CHOSEN, REJECTED)))
    assert not capsys.readouterr().err


def test_no_pair_can_be_used(tmp_path: pathlib.Path) -> None:
    data = pairs(tmp_path, [([1, 2], [])], [([1], [2])])
    with pytest.raises(
        UserError, match="none of 1 pairs can be used with pack-impl: unpacked: 1 w"
    ):
        loader(data)


# --- The order --------------------------------------------------------------------------------


def test_order_reaches_the_first_of_each_document() -> None:
    useful = np.array([True, False, True])
    index = unpacked_pairs(useful, num_samples=7, seed=3)
    assert index.doc_idx.tolist() == [0, 2, 0, 2, 0, 2, 0, 2]
    assert sorted(index.shuffle_idx) == [0, 0, 0, 1, 1, 2, 2]
    numbers = np.arange(7) % 3
    np.random.RandomState(3).shuffle(numbers)
    np.testing.assert_array_equal(index.shuffle_idx, numbers)


def test_overflow_packs_by_the_longer_side() -> None:
    chosen, rejected = np.array([1, 4, 2], np.int32), np.array([3, 1, 2], np.int32)
    useful = np.ones(3, bool)
    index = overflow_pairs(chosen, rejected, useful, num_samples=9, seq_length=5, seed=1)
    longer = np.maximum(chosen, rejected)[index.doc_idx]
    begins = index.sample_idx[:-1, 0]
    for begin, end in itertools.pairwise(begins):
        assert longer[begin:end].sum() <= 6 < longer[begin : end + 1].sum()


def test_neox_leaves_out_the_short_pairs_of_an_overflow(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long: list[Text] = [([1], [2, 3, 4, 5, 6])]
    data = pairs(tmp_path, [*CHOSEN, *long], [*REJECTED, *long])
    data = replace(data, pack="pack_until_overflow", allow_chopped=False)
    tokens = every(loader(data, as_neox=True))["tokens"]
    assert np.unique(tokens, axis=0).tolist() == [[[1, 2, 3, 4, 5, 6]] * 2]
    assert "3 shorter than seq-length + 1 = 6 tokens with allow-chopped: false" in (
        capsys.readouterr().err
    )


def test_batches_are_a_function_of_the_step(data: DataConfig) -> None:
    whole = loader(data)
    batches = [whole.fields(step) for step in range(6)]
    for step in (5, 1, 3):
        fresh = loader(data).fields(step)
        for name, values in batches[step].items():
            np.testing.assert_array_equal(fresh[name], values)
            for rows in (slice(1, 3), [2, 0], []):
                np.testing.assert_array_equal(whole.fields(step, rows)[name], values[rows])
    tokens, weights = whole.read(5)
    np.testing.assert_array_equal(tokens, batches[5]["tokens"])
    assert weights is not None and len(weights) == 4
    with pytest.raises(IndexError):
        whole.fields(0, [4])


def test_blend_of_pairs(tmp_path: pathlib.Path) -> None:
    sides = {}
    for name, first in (("a", 10), ("b", 50)):
        for side, add in (("c", 0), ("r", 1)):
            texts: list[Text] = [([first], [first + 2 * k + add + 1]) for k in range(8)]
            sides[name + side] = write_texts(tmp_path / f"{name}{side}", texts)
    columns = [list(zip(sides["a" + side], sides["b" + side], strict=True)) for side in "cr"]
    source = DataSource(columns[0][0], (3.0, 1.0), columns[0][1], (), *columns[1])
    found = loader(DataConfig(train=source, pack="unpacked"), num_samples=40)
    tokens = every(found)["tokens"]
    firsts, seconds = tokens[:, :, 0], tokens[:, :, 1]
    assert (firsts[:, 0] == firsts[:, 1]).all() and (seconds[:, 0] + 1 == seconds[:, 1]).all()
    assert abs((firsts[:, 0] == 10).mean() - 0.75) < 0.03
    for rows in ([], [3, 0]):
        np.testing.assert_array_equal(
            found.fields(2, rows)["tokens"], found.fields(2)["tokens"][rows]
        )
    equal = loader(DataConfig(train=replace(source, weights=()), pack="unpacked"), num_samples=40)
    assert abs((every(equal)["tokens"][:, 0, 0] == 10).mean() - 0.5) < 0.03


# --- A reference model's log-probabilities ----------------------------------------------------


def logs(count: int, add: float = 0.0, width: int = 5) -> list[list[float]]:
    return [[add - document - k / 8 for k in range(width)] for document in range(count)]


def with_logs(data: DataConfig, chosen: list[list[float]], rejected: list[list[float]]) -> None:
    write_reference(data.train.paths[0], chosen)
    write_reference(data.train.rejected[0], rejected)


@pytest.mark.parametrize("as_neox", [False, True])
def test_reference(data: DataConfig, as_neox: bool) -> None:
    with_logs(data, logs(3), logs(3, -10))
    fields = every(loader(data, reference="ref", as_neox=as_neox))
    row = fields["tokens"][:, 0, 0] == 3
    assert fields["reference"].dtype == np.float32
    assert fields["reference"][row][0].tolist() == [logs(3)[1], logs(3, -10)[1]]
    for other in (loader(data, "rm", reference="ref"), loader(data, dpo_reference_free=True)):
        assert "reference" not in every(other)


def test_a_reference_of_the_hub(data: DataConfig) -> None:
    with pytest.raises(UserError, match=r"c_document_EleutherAI/pythia-70m\.idx: no such file"):
        loader(data, reference="EleutherAI/pythia-70m")
    for tokens in (*data.train.paths, *data.train.rejected):
        pathlib.Path(f"{tokens}_EleutherAI").mkdir()
        write(pathlib.Path(f"{tokens}_EleutherAI/pythia-70m"), logs(3), "float32")
    assert "reference" in every(loader(data, reference="EleutherAI/pythia-70m"))


def test_neox_fills_up_the_last_batch_of_the_reference(data: DataConfig) -> None:
    with_logs(data, [*logs(3), *logs(3), *logs(2)], logs(3))
    assert len(every(loader(data, reference="ref"))["reference"])
    with_logs(data, [*logs(3), *logs(2, -5)], logs(3))
    with pytest.raises(UserError, match=r"c_document_ref\.idx: 5 documents, but .* has 3"):
        loader(data, reference="ref")


def test_wrong_references(data: DataConfig) -> None:
    with pytest.raises(
        UserError, match=r"c_document_ref\.idx: no such file; precompute_model_name"
    ):
        loader(data, reference="ref")
    with_logs(data, logs(2), logs(3))
    with pytest.raises(
        UserError, match=r"c_document_ref\.idx: 2 documents, but .* 3: replace it with .*--again"
    ):
        loader(data, reference="ref")
    with_logs(data, logs(3), [*logs(2), [0.0] * 6])
    with pytest.raises(UserError, match=r"r_document_ref\.idx: document 2 has 6 numbers, expected"):
        loader(data, reference="ref")
    with_logs(data, logs(3), [*logs(2), [0, 0, 0, np.nan, 0]])
    with pytest.raises(
        UserError, match=r"r_document_ref\.bin: number 3 of document 2 is nan, expe"
    ):
        every(loader(data, reference="ref"))
    write(pathlib.Path(data.train.paths[0] + "_ref"), [[1] * 5] * 3)
    with pytest.raises(UserError, match=r"c_document_ref\.idx: holds int32 numbers, expected log-"):
        loader(data, reference="ref")


# --- What is wrong ----------------------------------------------------------------------------


def test_prompts_that_differ(tmp_path: pathlib.Path) -> None:
    for third in (([4, 5, 7], [23]), ([4, 5], [23]), ([4, 5, 6, 7], [])):
        other: list[Text] = [*REJECTED[:2], third]
        data = pairs(tmp_path, CHOSEN, other)
        if not third[1]:  # nothing to learn from: it is left out before
            assert len(every(loader(data)))
            continue
        with pytest.raises(UserError, match=r"r_document\.bin: document 2 has another prompt than"):
            loader(data)
        assert len(every(loader(data, "rm"))) == len(every(loader(data, as_neox=True))) == 3
        assert len(every(loader(unlabelled(data))))


def test_two_files_that_do_not_go_together(tmp_path: pathlib.Path) -> None:
    data = pairs(tmp_path, CHOSEN, REJECTED[:2])
    with pytest.raises(
        UserError, match=r"c_document\.idx has 3 documents, but .*r_document\.idx has 2: document d"
    ):
        loader(data)
    data = pairs(tmp_path, CHOSEN, REJECTED)
    write(tmp_path / "r_label_document", [[1]] * 3)
    with pytest.raises(UserError, match=r"r_label_document\.idx: 1 tokens in sequence 0, but"):
        loader(data)
    labels = [[MASKED] * len(p) + [9] * len(a) for p, a in REJECTED]
    write(tmp_path / "r_label_document", labels)
    with pytest.raises(
        UserError, match=r"r_label_document\.bin: token \d of document \d, byte .*9"
    ):
        every(loader(data))


def test_token_out_of_the_vocabulary(tmp_path: pathlib.Path) -> None:
    data = pairs(tmp_path, [([1, 2], [10])], [([1, 2], [10, 100])])
    message = (
        r"r_document\.bin: token 3 of document 0, byte 6, is 100, outside the vocabulary of 10"
    )
    with pytest.raises(UserError, match=message):
        loader(data).fields(0)


def test_floats_are_no_tokens(data: DataConfig, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "r_document", [[1.0]] * 3, "float32")
    with pytest.raises(UserError, match=r"r_document\.idx: holds float32 numbers, expected tokens"):
        loader(data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("rm", "set pos-train-data-paths and neg-"), ("kto", "set train-data-paths, train-label-")],
)
def test_no_data(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=f"no data: {message}"):
        loader(DataConfig(pack="unpacked"), kind)


def test_fingerprint_is_what_decides_the_batches(data: DataConfig, tmp_path: pathlib.Path) -> None:
    same = loader(data).fingerprint()
    assert json.loads(json.dumps(same)) == same
    assert (same["samples"]["order"], same["wraps_at"]) == (
        "neox blend",
        12,
    )  # a run asks for these
    moved = tmp_path / "moved"
    moved.mkdir()
    source = data.train
    for path in source.files:
        for suffix in (".bin", ".idx"):
            shutil.copy(path + suffix, moved)

    def there(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(moved / pathlib.Path(path).name) for path in paths)

    other = DataSource(
        there(source.paths), (), there(source.labels), (), there(source.rejected),
        there(source.rejected_labels),
    )  # fmt: skip
    assert loader(replace(data, train=other)).fingerprint() == same
    with_logs(data, logs(3), logs(3))
    found = [
        loader(data, as_neox=True).fingerprint(),
        loader(data, reference="ref").fingerprint(),
        loader(data, seed=8).fingerprint(),
        loader(data, global_batch=3).fingerprint(),
        loader(unlabelled(data)).fingerprint(),
        loader(replace(data, eod_mask_loss=True)).fingerprint(),
        loader(replace(data, allow_chopped=False)).fingerprint(),
    ]
    with_logs(data, logs(3), logs(3, -1))
    found.append(loader(data, reference="ref").fingerprint())
    changed = pairs(tmp_path, CHOSEN, [*REJECTED[:2], ([4, 5, 6], [23, 25, 0])])
    found.append(loader(changed).fingerprint())
    assert len({json.dumps(fingerprint) for fingerprint in (same, *found)}) == 1 + len(found)


def test_the_first_token_is_no_label(tmp_path: pathlib.Path) -> None:
    """Nothing comes before it: a text that has no other label teaches nothing."""
    one, two = ([], [7]), ([], [8, 0])
    data = pairs(tmp_path, [one, two, ([3], [9])], [([], [6]), two, ([3], [5])])
    fields = every(loader(data))
    assert set(fields["tokens"][:, 0, 0].tolist()) == {8, 3}
    assert (fields["labelled"].sum(axis=2) == 1).all()
    labels = IndexedDataset(data.train.labels[0])
    assert prompt_lengths(labels).tolist() == [0, 0, 1]
    assert prompt_lengths(labels, after=1).tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="none of 1 pairs can be used"):
        loader(pairs(tmp_path, [one], [one]))
    assert len(loader(pairs(tmp_path, [one], [one]), as_neox=True).examples)
