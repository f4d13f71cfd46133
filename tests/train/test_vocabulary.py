"""A vocabulary that tp does not divide, and one that grows when a model is tuned."""

from pathlib import Path

import numpy as np
import pytest

import jaxneox
from jaxneox import checkpoint
from jaxneox.infer.sampling import Sampling
from tests.train.runs import command, losses, succeeds, write_yaml

STILL = ("train-iters=1", "warmup=0", "optimizer.params.lr=1e-12")

# of two float32 sums in different orders, which four steps of training magnify
LOSS = 1e-6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run of 525 tokens on one device and on two."""
    folder = tmp_path_factory.mktemp("odd")
    yaml = write_yaml(folder, padded_vocab_size=525)
    found = {mesh: folder / mesh for mesh in ("tp=1", "tp=2")}
    for mesh, run in found.items():
        options = ("--mesh", mesh, "--save", run, "--set", "train-iters=4")
        said = succeeds(yaml, *options)
        padded = "the vocabulary of 525 is padded to 526 for tp=2"
        assert (padded in said) == (mesh == "tp=2")
    return found


@pytest.mark.slow
def test_a_run_on_tp_is_the_run_on_one_device(runs: dict[str, Path]) -> None:
    assert losses(runs["tp=2"]) == pytest.approx(losses(runs["tp=1"]), rel=LOSS)
    for item in ("params", "training"):
        shapes = [checkpoint.read_shapes(checkpoint.find(run, None), item) for run in runs.values()]
        assert shapes[0] == shapes[1]
    assert jaxneox.load(runs["tp=2"]).params["embed.tokens"].shape[0] == 525


@pytest.mark.slow
def test_it_generates_and_scores_alike(runs: dict[str, Path]) -> None:
    one, two = (jaxneox.load(runs["tp=1"], mesh=mesh) for mesh in ("tp=1", "tp=2"))
    tokens = np.random.default_rng(0).integers(0, 525, (2, 8))
    whole = [np.asarray(model(tokens)) for model in (one, two)]
    assert whole[0].shape == whole[1].shape == (2, 8, 525)
    np.testing.assert_allclose(*whole, atol=1e-5)
    for options in ({}, {"temperature": 1.0, "top_k": 40}, {"recompute": True}):
        answers = [
            model.generate(["quick", "over"], max_tokens=6, **options) for model in (one, two)
        ]
        assert [a.tokens for a in answers[0]] == [a.tokens for a in answers[1]]
        np.testing.assert_allclose(*[[a.logprobs for a in each] for each in answers], atol=1e-5)
    prompt = [3, 524, 7, 250]  # its own tokens are scored over the whole vocabulary
    scored = [
        model.pools(1, 32, None, tops=2).score(0, prompt, Sampling())[1] for model in (one, two)
    ]
    np.testing.assert_allclose(*[each.logprob_BT[0, :3] for each in scored], atol=1e-5)
    pairs = [("quick ", "brown"), ("la", "zy dogs")]
    np.testing.assert_allclose(
        *[[score for score, _ in model.loglikelihood(pairs)] for model in (one, two)], atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["tp=1", "tp=2"])
def test_tuning_adds_rows_that_are_the_mean_of_the_others(
    mesh: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    options = ("--mesh", mesh, "--set", "padded-vocab-size=531", *STILL)
    outcome = command(runs["tp=1"], *options)
    assert outcome.code == 2 and "vocab_size is 525 there and 531 here" in outcome.err
    said = succeeds(runs["tp=1"], "--finetune", "--save", tuned, *options)
    assert "vocab_size is 525 there and 531 here: each new row is the mean of those" in said
    before, after = (jaxneox.load(run).params for run in (runs["tp=1"], tuned))
    for name, axis in (("embed.tokens", 0), ("unembed.weight", 1)):
        old, new = (np.moveaxis(np.asarray(params[name]), axis, 0) for params in (before, after))
        assert new.shape[0] == 531
        np.testing.assert_allclose(new[:525], old, atol=1e-9)
        np.testing.assert_allclose(new[525:], np.tile(old.mean(0), (6, 1)), atol=1e-7)


@pytest.mark.slow
def test_a_vocabulary_does_not_shrink(runs: dict[str, Path], tmp_path: Path) -> None:
    options = ("--mesh", "dp=1", "--save", tmp_path / "x", "--set", "padded-vocab-size=520")
    outcome = command(runs["tp=1"], "--finetune", *options)
    assert outcome.code == 2 and "embed.tokens is [525, 32] there and [520, 32] here" in outcome.err
