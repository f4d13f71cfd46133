"""NeoX's own batches of preference training: every index and every field, from its YAML files."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from jaxneox.config import Settings, load_yaml
from jaxneox.data import Loader, open_loader, open_tokenizer
from jaxneox.data.examples import ExampleBlend, ExampleLoader
from jaxneox.data.loader import SampleLoader
from jaxneox.data.order.packed import SampleIndex
from jaxneox.data.pairs import PairExamples
from jaxneox.data.rated import RatedExamples
from jaxneox.data.samples import Blend, IndexedSamples

SHARED = pathlib.Path(
    os.environ.get("JAXNEOX_SHARED", pathlib.Path(__file__).parents[3] / "shared")
)
CASES = sorted(
    path.name
    for kind in ("dpo", "kto", "rm", "sft")
    for path in SHARED.glob(f"golden/neox_posttrain/{kind}_*")
    if (path / "golden.npz").is_file()
)


@pytest.fixture(params=CASES or ["none"])
def case(
    shared: pathlib.Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pathlib.Path]:
    """A case's folder, in which its YAML's paths are valid."""
    if not CASES:
        pytest.skip("no cases of preference training here: set JAXNEOX_SHARED")
    folder = shared / "golden" / "neox_posttrain" / request.param
    monkeypatch.chdir(folder)
    yield folder


def opened(folder: pathlib.Path) -> Loader:
    settings = Settings(load_yaml([folder / "neox_config.yml"]) | {"neox_compat": True})
    tokenizer = open_tokenizer(settings.tokenizer, [])
    loader = open_loader(settings.data_run(1, tokenizer.vocab_size), tokenizer, "train")
    assert loader is not None
    return loader


def index_of(loader: Loader) -> SampleIndex:
    """The index of the one dataset."""
    if isinstance(loader, SampleLoader):
        assert isinstance(loader.samples, Blend)
        (samples,) = loader.samples.datasets
        assert isinstance(samples, IndexedSamples)
        return samples.index
    assert isinstance(loader, ExampleLoader) and isinstance(loader.examples, ExampleBlend)
    (examples,) = loader.examples.datasets
    if isinstance(examples, PairExamples):
        assert examples.sides[0].samples.index is examples.sides[1].samples.index
        return examples.sides[0].samples.index
    assert isinstance(examples, RatedExamples)
    return examples.texts.samples.index


def test_order_is_neox(case: pathlib.Path) -> None:
    index = index_of(opened(case))
    with np.load(case / "golden.npz") as golden:
        for name in SampleIndex._fields:
            np.testing.assert_array_equal(
                getattr(index, name), golden[f"index_{name}"], err_msg=name
            )


def test_batches_are_neox(case: pathlib.Path) -> None:
    loader = opened(case)
    with np.load(case / "golden.npz") as golden:
        expected = {name: golden[name] for name in golden.files if name.startswith("batch/")}
    steps, micro = expected["batch/tokens"].shape[:2]
    for step in range(steps):
        fields = loader.fields(step)
        mask = fields.get("labelled", fields["weights"])
        tokens = fields["tokens"]
        found = {"tokens": tokens[..., :-1], "labels": tokens[..., 1:], "loss_mask": mask}
        found |= {
            theirs: fields[ours]
            for theirs, ours in {"rewards": "rewards", "ref_logp": "reference"}.items()
            if ours in fields
        }
        assert {f"batch/{name}" for name in found} == expected.keys()
        counts = expected["batch/loss_mask"][step] > 0
        for name, values in found.items():
            ours, theirs = neox_layout(values, micro), expected[f"batch/{name}"][step]
            if name == "labels":  # NeoX has 0 where none counts
                ours, theirs = np.where(counts, ours, 0), np.where(counts, theirs, 0)
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def neox_layout(values: NDArray, micro: int) -> NDArray:
    """Micro-batches [A, B, S], in those of pairs first all chosen rows and then all rejected."""
    rows = values.reshape(micro, -1, *values.shape[1:])
    return rows if rows.ndim == 3 else np.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=1)
