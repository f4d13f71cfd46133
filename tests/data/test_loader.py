"""Batches: NeoX's own ones, a pure function of the step, and one line for what is wrong."""

import json
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jaxneox.config.data_schema import DataConfig, DataSource, TokenizerConfig
from jaxneox.data import BatchSizes, SampleRequest, build_loader, build_tokenizer, samples_needed
from jaxneox.data.loader import Loader, SampleLoader
from jaxneox.data.sample_request import Split
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from tests.data import golden

CHAR = build_tokenizer(TokenizerConfig("CharLevelTokenizer"))


# --- NeoX's batches ---------------------------------------------------------------------------


def neox_loader(
    shared: pathlib.Path, case: str, split: Split, dp: int, eod_mask: bool = False
) -> SampleLoader:
    """As the golden process: micro batch 4, accumulation 2, S 128, seed 1234."""
    a, b, text, label = (
        golden.corpus(shared, f"neox_corpus_{name}")
        for name in ("a_text", "b_text", "q_text", "q_label")
    )
    if case.startswith("label"):
        pack = {"overflow": "pack_until_overflow"}.get(case[6:], case[6:])
        source = DataSource((text,), labels=(label,))
        data = DataConfig(pack=pack, train=source, valid=source, test=source)  # type: ignore[arg-type]
    elif case.startswith("blend"):
        data = DataConfig(
            train=DataSource((a, b), (0.7, 0.3)),
            valid=DataSource((a, b), (0.5, 0.5)),
            test=DataSource((a, b), (2.0, 1.0)),
            weight_by_num_documents=case == "blend_by_num_docs",
            weighted_sampler_alpha=0.3,
        )
    else:
        data = DataConfig(path=a, split="900,50,50")
    iters = {"single": 50, "single_sliding64": 50, "blend_surplus": 138 // dp}
    num_samples = samples_needed(
        split,
        train_iters=iters.get(case, 20 if case.startswith("label") else 120),
        eval_interval=10,
        eval_iters=2,
        global_batch=8 * dp,
    )
    tokenizer = build_tokenizer(TokenizerConfig("CharLevelTokenizer"))  # its eod is 0 too
    loader = build_loader(
        replace(data, eod_mask_loss=eod_mask),
        tokenizer,
        SampleRequest(split, num_samples, 128, 1234),
        BatchSizes(8 * dp),
        vocab_size=50304,
        drop_last=4 * dp,
    )
    assert isinstance(loader, SampleLoader)
    return loader


CASES = [
    "single", "single_sliding64", "blend", "blend_surplus", "blend_by_num_docs",
    "label_packed", "label_unpacked", "label_overflow",
]  # fmt: skip


@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_batches_are_neox(shared: pathlib.Path, case: str, dp: int) -> None:
    for rank in range(dp):
        expected = golden.arrays(shared, "neox", f"batches_{case}_dp{dp}_rank{rank}")
        # Micro step j of a rank: rows j * 4 * dp + rank * 4 and the three after it.
        rows = [j * 4 * dp + rank * 4 + k for j in range(2) for k in range(4)]
        train, masked = (neox_loader(shared, case, "train", dp, mask) for mask in (False, True))
        valid = neox_loader(shared, case, "valid", dp)
        for step in range(3):
            batch = train.read(step, rows)
            inputs, labels = batch.tokens[:, :-1], batch.tokens[:, 1:]
            weights = np.ones_like(labels) if batch.weights is None else batch.weights
            same(inputs, expected["tokens"][step])
            same(weights, expected["loss_mask"][step])
            same(
                np.where(weights, labels, 0),
                np.where(weights, expected["labels"][step].reshape(8, 128), 0),
            )
            with_eod = masked.read(step, rows).weights
            assert with_eod is not None and with_eod.dtype == np.float32
            same(with_eod, expected["loss_mask_eodmask"][step])
        same(train.read(2, rows).tokens[:, :-1], expected["resume_tokens"])
        same(valid.read(0, rows).tokens[:, :-1], expected["valid_tokens"])
        if "blend_all_text_sha256" in expected:
            every = train.samples.read(np.arange(len(train.samples))).tokens
            assert golden.sha256(every) == expected["blend_all_text_sha256"]


def same(found: NDArray, expected: NDArray) -> None:
    np.testing.assert_array_equal(found, expected.reshape(8, 128))


def test_every_golden_is_a_case(shared: pathlib.Path) -> None:
    names = {name for name in golden.names(shared, "neox") if name.startswith("batches_")}
    assert {name[8:].rpartition("_dp")[0] for name in names} <= set(CASES)


@pytest.mark.parametrize("dp", [1, 2])
def test_end_of_the_data_is_neox(shared: pathlib.Path, dp: int) -> None:
    loader = neox_loader(shared, "single", "train", dp)
    for rank in range(dp):
        path = shared / "golden" / "data" / "neox" / f"wraparound_dp{dp}_rank{rank}.json"
        expected = json.loads(path.read_text())
        for k, indices in enumerate(expected["fresh_rows"]):
            step, j = divmod(expected["fresh_skip"] + k, 2)
            rows = slice(j * 4 * dp + rank * 4, j * 4 * dp + rank * 4 + 4)
            found = loader.read(step, rows).tokens
            np.testing.assert_array_equal(found, loader.samples.read(np.array(indices)).tokens)


# --- Small data -------------------------------------------------------------------------------


def write(prefix: pathlib.Path, documents: list[list[int]], dtype: str = "uint16") -> str:
    with IndexedWriter(prefix, dtype) as out:
        for document in documents:
            out.add(document)
    return str(prefix)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    """20 documents of 5 tokens, numbered through."""
    return write(tmp_path / "x", [[5 * d + k for k in range(5)] for d in range(20)])


def small(data: DataConfig, **changes: Any) -> Loader | None:
    settings: dict[str, Any] = {"split": "train", "num_samples": 12, "seq_length": 4, "seed": 7}
    others: dict[str, Any] = {"vocab_size": 100}
    sizes = BatchSizes(changes.pop("global_batch", 3), changes.pop("ramp", None))
    for name, value in changes.items():
        (settings if name in settings else others)[name] = value
    return build_loader(data, CHAR, SampleRequest(**settings), sizes, **others)


def built(data: DataConfig, **changes: Any) -> Loader:
    loader = small(data, **changes)
    assert loader is not None
    return loader


def test_batch_is_a_function_of_the_step(path: str) -> None:
    loader = built(DataConfig(path=path, split="1"))
    batches = [loader.batch(step) for step in range(20)]
    assert {(batch.shape, batch.dtype.name) for batch in batches} == {((3, 5), "int32")}
    fresh = built(DataConfig(path=path, split="1"))
    for step in (19, 3, 0, 8):
        np.testing.assert_array_equal(fresh.batch(step), batches[step])
    # 100 tokens are 24 samples, of which NeoX serves 23 and whole batches of 3 take 21.
    np.testing.assert_array_equal(batches[7], batches[0])
    seen = np.concatenate(batches[:7])
    assert len(np.unique(seen, axis=0)) == 21


def test_rows_are_rows_of_the_batch(path: str) -> None:
    loader = built(DataConfig(path=path))
    for rows in (slice(1, 3), [2, 0], [], slice(None)):
        np.testing.assert_array_equal(loader.read(5, rows).tokens, loader.batch(5)[rows])
    with pytest.raises(IndexError):
        loader.read(0, [3])


def test_less_data_than_a_batch_repeats(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "x", [[1, 2, 3, 4, 5, 6, 7]])
    loader = built(DataConfig(path=path), seq_length=2, num_samples=3, global_batch=5)
    batch = loader.batch(0)
    np.testing.assert_array_equal(batch[0::2], np.stack([batch[0]] * 3))
    assert batch[1].tolist() != batch[0].tolist()
    np.testing.assert_array_equal(loader.batch(1)[0], batch[1])
    one = built(DataConfig(path=path), seq_length=6, num_samples=1, global_batch=1)
    assert one.batch(9).tolist() == [[1, 2, 3, 4, 5, 6, 7]]


def test_drop_last_decides_where_it_wraps(path: str) -> None:
    loader = built(DataConfig(path=path, split="1"), global_batch=5, drop_last=2)
    np.testing.assert_array_equal(loader.batch(4)[2:], loader.batch(0)[:3])  # 22 of 23 samples


def test_weight_by_num_documents(path: str, tmp_path: pathlib.Path) -> None:
    paths = (path, write(tmp_path / "y", [[7, 8, 9, 10]] * 60))
    by_number = DataConfig(
        train=DataSource(paths), weight_by_num_documents=True, weighted_sampler_alpha=0.3
    )
    shares = [0.25**0.3 * 0.75, 0.75**0.3 * 0.25]
    by_hand = DataConfig(train=DataSource(paths, tuple(shares)))
    for step in range(5):
        one, other = (built(data, num_samples=40).batch(step) for data in (by_number, by_hand))
        np.testing.assert_array_equal(one, other)
    assert built(DataConfig(train=DataSource(paths)), num_samples=40).batch(3).tolist() != (
        built(by_number, num_samples=40).batch(3).tolist()
    )


def test_splits_share_no_document(path: str) -> None:
    data = DataConfig(path=path, split="12,4,4")
    seen = [
        set(built(data, split=split).read(step, [row]).tokens.ravel().tolist())
        for split in ("train", "valid", "test") for step in range(4) for row in range(3)
    ]  # fmt: skip
    documents = [{token // 5 for token in row} for row in seen]
    assert set.union(*documents[:12]) <= set(range(12))
    assert set.union(*documents[12:24]) <= set(range(12, 16))
    assert set.union(*documents[24:]) <= set(range(16, 20))


def test_empty_parts_are_none(path: str) -> None:
    assert small(DataConfig(path=path, split="1,0,0"), split="valid") is None
    assert small(DataConfig(path=path), num_samples=0) is None
    assert small(DataConfig(train=DataSource((path,))), split="test") is None


def test_eod_mask(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "x", [[3, 0], [4, 0], [5, 0], [6, 0]])
    loader = built(DataConfig(path=path, eod_mask_loss=True), num_samples=3)
    mask = loader.read(2, [1, 2]).weights
    assert mask is not None
    np.testing.assert_array_equal(mask, loader.batch(2)[1:, :-1] != 0)


def test_eod_mask_needs_the_token(path: str) -> None:
    with pytest.raises(UserError, match="eod-mask-loss: true, but the tokenizer has no"):
        data, request = DataConfig(path=path, eod_mask_loss=True), SampleRequest("train", 1, 4, 0)
        build_loader(data, None, request, BatchSizes(1))


def test_text_goes_through_the_cache(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.txt").write_text("abcdefghi")
    data = DataConfig(path=str(tmp_path / "x.txt"))
    for row in built(data, vocab_size=512).batch(0).tolist():
        assert bytes(row) in b"abcdefghi\0" * 2
    with pytest.raises(UserError, match="text needs a tokenizer"):
        build_loader(data, None, SampleRequest("train", 1, 4, 0), BatchSizes(1))


def test_numbers_of_samples() -> None:
    settings = {"train_iters": 50, "eval_interval": 20, "eval_iters": 2, "global_batch": 8}
    needed = [samples_needed(split, **settings) for split in ("train", "valid", "test")]
    assert needed == [400, 3 * 2 * 8, 16]
    assert samples_needed("valid", **settings, eval_fixed=True) == 2 * 8


def test_fingerprint_is_what_decides_the_batches(path: str, tmp_path: pathlib.Path) -> None:
    data = DataConfig(path=path)
    same = built(data).fingerprint()
    assert json.loads(json.dumps(same)) == same
    assert built(data, num_samples=13).fingerprint() == same
    (tmp_path / "moved").mkdir()
    for suffix in (".bin", ".idx"):
        target = tmp_path / "moved" / f"x{suffix}"
        target.write_bytes(pathlib.Path(path + suffix).read_bytes())
    assert built(DataConfig(path=str(tmp_path / "moved" / "x"))).fingerprint() == same
    others = [
        built(data, **change).fingerprint()
        for change in ({"seed": 8}, {"global_batch": 4}, {"num_samples": 99}, {"split": "valid"})
    ]
    others.append(built(DataConfig(path=path, split="1,1,1")).fingerprint())
    others.append(built(DataConfig(path=path, eod_mask_loss=True)).fingerprint())
    others.append(built(DataConfig(train=DataSource((path,)))).fingerprint())
    write(pathlib.Path(path), [[5 * d + k + 1 for k in range(5)] for d in range(19)] + [[0] * 5])
    others.append(built(data).fingerprint())
    texts = [json.dumps(other) for other in (same, *others)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("token", [100, 65535])
def test_token_out_of_the_vocabulary(tmp_path: pathlib.Path, token: int) -> None:
    path = write(tmp_path / "x", [[1, 2, 3], [4, 5, token, 7, 8]])
    loader = built(DataConfig(path=path), seq_length=7, num_samples=1, global_batch=1)
    message = rf"x\.bin: token 2 of document 1, byte 10, is {token}, outside the vocabulary of 100"
    with pytest.raises(UserError, match=message):
        loader.batch(0)


def test_negative_and_wide_tokens(tmp_path: pathlib.Path) -> None:
    for token in (-1, 2**32 + 1):
        path = write(tmp_path / "x", [[1, 2, token]], "int64")
        loader = built(DataConfig(path=path), seq_length=2, num_samples=1, global_batch=1)
        with pytest.raises(
            UserError, match=rf"token 2 of document 0, byte 16, is {token}, outside"
        ):
            loader.batch(0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(), "no data: set data-path"),
        (DataConfig(path="none"), r"none\.idx: no such file"),
    ],
)
def test_wrong_configuration(data: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        small(data)
    assert "\n" not in str(caught.value)


def test_no_document_to_train(path: str) -> None:
    with pytest.raises(UserError, match="leaves no document of 20 to train"):
        small(DataConfig(path=path, split="0,1,1"))


def test_empty_dataset(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="x: a dataset without documents"):
        small(DataConfig(path=write(tmp_path / "x", [])))
