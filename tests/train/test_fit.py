"""`jaxneox.fit`: the command's loop, with batches, losses and callbacks of one's own."""

import gc
import json
import math
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxneox
from jaxneox.config import keys_of
from jaxneox.console.waiting import PATIENCE
from jaxneox.errors import UserError
from jaxneox.objectives import NextToken
from jaxneox.train.checkpoints.lock import locked
from tests.train.runs import KEYS, losses, metrics, params, succeeds, write_words, write_yaml

SIZE, LENGTH = 4, 16
fit = partial(jaxneox.fit, mesh="dp=1")
DRY = {"hidden-dropout": 0.0, "attention-dropout": 0.0}


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 256, (SIZE, LENGTH + 1))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    words = write_words(tmp_path_factory.mktemp("words") / "words.jsonl")
    return KEYS | {"data-path": str(words)}


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command."""
    folder = tmp_path_factory.mktemp("commanded")
    yaml = write_yaml(folder, eval_interval=5, eval_iters=1)
    succeeds(yaml, "--mesh", "dp=1", "--save", folder / "run")
    return folder / "run"


def test_the_same_run_as_the_commands(
    commanded: Path,
    keys: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a dictionary, and in two parts: bit for bit, and without a word."""
    monkeypatch.setenv(PATIENCE, "0")
    capsys.readouterr()
    settings = {"save": tmp_path / "run", "eval_interval": np.int64(5), "eval-iters": 1}
    seen: list[int] = []

    def until_7(progress: Any) -> None:
        seen.append(progress.step)
        if progress.step == 7:
            progress.stop()

    first = fit(keys, settings=settings, callbacks=[until_7], verbose=False)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert (first.step, first.finished, first.folder) == (7, False, tmp_path / "run")
    last = fit(keys, settings=settings, verbose=False)
    assert (last.step, last.finished, len(last.figures)) == (12, True, 5)
    assert metrics(tmp_path / "run") == metrics(commanded)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert first.figures + last.figures == rows
    for name, expected in params(commanded).items():
        np.testing.assert_array_equal(last.params[name], expected)
    tokens = batch(0)[:, :-1]
    np.testing.assert_allclose(
        last.model(tokens), jaxneox.load(commanded)(tokens), rtol=1e-6, atol=1e-6
    )
    assert capsys.readouterr() == ("", "")
    yaml = write_yaml(tmp_path)
    with pytest.raises(UserError, match="overwrite its run"):
        fit([tmp_path / "run/step_7", yaml], verbose=False)
    branch = fit(tmp_path / "run/step_7", settings={"save": tmp_path / "branch"}, verbose=False)
    assert branch.figures[-1]["loss"] == last.figures[-1]["loss"]
    again = fit(tmp_path / "run")
    says = capsys.readouterr().out
    assert f"nothing to do: {tmp_path / 'run'} is at step 12, and 12 were asked for" in says
    assert f"train {tmp_path / 'run'} --set train-iters=24 " in says
    assert repr(again) == f"FittedRun(step 12 of 12, {tmp_path / 'run'})"
    assert (again.step, again.finished, again.figures) == (12, True, [])


def test_batches_of_ones_own(keys: dict[str, Any], tmp_path: Path) -> None:
    """The same losses as the command's for the same batches, also when they go on after a stop."""
    tokens = np.stack([batch(step) for step in range(8)])
    np.savez(tmp_path / "tokens.npz", tokens=tokens)
    yaml = write_yaml(tmp_path)
    tokens_file = ("--tokens", tmp_path / "tokens.npz")
    succeeds(yaml, *tokens_file, "--mesh", "dp=1", "--save", tmp_path / "command")
    expected = losses(tmp_path / "command")
    settings = {"train-iters": 8, "train-batch-size": SIZE}

    def run(data: Any, **more: Any) -> Any:
        return fit(keys, data, settings=settings | more, verbose=False)

    assert [row["loss"] for row in run(iter(tokens)).figures] == expected
    assert [row["loss"] for row in run(batch).figures] == expected
    weighted = ({"tokens": each, "weights": np.ones((SIZE, LENGTH))} for each in tokens)
    assert [row["loss"] for row in run(weighted).figures] == expected
    ended = run(list(tokens[:5]))
    assert (ended.step, ended.finished) == (5, False)
    five = iter(tokens[:5])
    ended = run(lambda step: next(five))
    assert (ended.step, ended.finished) == (5, False)
    part = run(list(tokens[:5]), save=tmp_path / "run")
    rest = run(batch, save=tmp_path / "run")
    assert [row["loss"] for row in part.figures + rest.figures] == expected
    run(list(tokens[:5]), save=tmp_path / "listed")
    rest = run(list(tokens[5:]), save=tmp_path / "listed", eval_iters=1, eval_interval=1)
    assert [row["loss"] for row in rest.figures] == expected[5:]
    assert not [name for name in rest.figures[-1] if name.startswith(("valid_", "test_"))]


class Twice(NextToken):
    """An objective of one's own that is twice another."""

    def sums(self, *args: Any) -> Any:
        loss, figures = super().sums(*args)
        return 2 * loss, figures | {"half": loss}


def test_an_objective_of_ones_own(keys: dict[str, Any]) -> None:
    settings = {"train-iters": 4, "optimizer.params.lr": 1e-3}

    def run(objective: Any) -> list[dict[str, float]]:
        keys_ = keys | DRY
        return fit(keys_, batch, settings=settings, objective=objective, verbose=False).figures

    expected = run(None)
    same = run(NextToken(LENGTH))
    assert [row["loss"] for row in same] == [row["loss"] for row in expected]
    doubled = run(Twice(LENGTH))
    assert doubled[0]["loss"] == 2 * expected[0]["loss"]
    assert all(row["half"] == row["loss"] / 2 for row in doubled)

    def own(model: Any, params: Any, fields: Any) -> Any:
        losses = model.token_losses(params, fields["tokens"])
        logits = model.logits(params, fields["tokens"][:, :-1])
        right = jnp.argmax(logits, -1) == fields["tokens"][:, 1:]
        return losses, {"accuracy": right}

    found = run(own)
    for row, other in zip(found, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        count = row["accuracy"] * SIZE * LENGTH
        assert count == pytest.approx(round(count), abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, DRY | {"reset_attention_mask": True, "eod_token": "a"}],
    ids=["dropout", "documents"],
)
def test_the_functions_are_those_of_training(
    settings: dict[str, Any], keys: dict[str, Any]
) -> None:
    """With the same dropout masks, and documents that are kept apart."""

    def own(model: Any, params: Any, fields: Any) -> Any:
        return model.token_losses(params, fields["tokens"])

    def tokens(step: int) -> np.ndarray:
        return np.random.default_rng(step).integers(96, 99, (SIZE, LENGTH + 1))

    def run(**more: Any) -> list[float]:
        keys_ = {"train-iters": 3, "lr": 0.1} | more
        fitted = fit(keys, tokens, settings=keys_, verbose=False, objective=objective)
        return [row["loss"] for row in fitted.figures]

    objective: Any = None
    expected, other = run(**settings), run(**DRY)
    objective = own
    assert run(**settings) == pytest.approx(expected, rel=1e-5)
    assert other[-1] != pytest.approx(expected[-1], rel=1e-4)


def test_a_loss_of_ones_own_is_evaluated(keys: dict[str, Any]) -> None:
    """On the configured data, as the mean over all batches, figures as well."""

    def own(model: Any, params: Any, fields: Any) -> Any:
        losses = model.token_losses(params, fields["tokens"])
        return losses, {"twice": 2 * losses}

    def run(objective: Any) -> dict[str, float]:
        settings = {"train-iters": 2, "eval-interval": 2, "eval-iters": 2}
        return fit(keys, settings=settings, objective=objective, verbose=False).figures[-1]

    expected, found = run(None), run(own)
    for split in ("valid", "test"):
        assert found[f"{split}_loss"] == pytest.approx(expected[f"{split}_loss"], rel=1e-5)
        assert found[f"{split}_twice"] == pytest.approx(2 * found[f"{split}_loss"], rel=1e-5)


def test_a_run_that_is_kept_holds_no_optimizer(keys: dict[str, Any]) -> None:
    gc.collect()
    before = {id(x) for x in jax.live_arrays()}
    run = fit(keys, batch, settings={"train-iters": 2}, verbose=False)
    gc.collect()
    held = sum(x.nbytes for x in jax.live_arrays() if id(x) not in before)
    assert held < 1.5 * sum(w.nbytes for w in run.params.values())


def test_fields_of_ones_own_as_they_are_given(keys: dict[str, Any]) -> None:
    """Also the weights, which are divided by their sum for the loss, and what is no number."""
    weights = np.arange(1.0, SIZE + 1)
    seen: dict[str, Any] = {}

    def own(model: Any, params: Any, fields: Any) -> Any:
        seen.update({name: field.dtype for name, field in fields.items()})
        losses = jnp.mean(model.token_losses(params, fields["tokens"]), axis=1)
        return losses, {"weight": fields["weights"], "chosen": ~fields["chosen"]}

    def fields(step: int) -> dict[str, np.ndarray]:
        return {"tokens": batch(step), "weights": weights, "chosen": np.arange(SIZE) > 0}

    for steps in (1, 2):
        settings = {"train-iters": 2, "gradient_accumulation_steps": steps}
        run = fit(keys, fields, settings=settings, objective=own, verbose=False)
        expected = float(np.sum(weights**2) / np.sum(weights))
        assert [row["weight"] for row in run.figures] == pytest.approx([expected] * 2)
        assert [row["chosen"] for row in run.figures] == pytest.approx([0.1] * 2)
    names = {"tokens": "int32", "weights": "float32", "chosen": "bool"}
    assert {name: str(dtype) for name, dtype in seen.items()} == names


def test_figures_are_shown(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    def own(model: Any, params: Any, fields: Any) -> Any:
        losses = model.token_losses(params, fields["tokens"])
        return losses, {"squared_loss": losses**2}

    run = fit(keys, batch, settings={"train-iters": 2}, objective=own)
    out = capsys.readouterr().out
    (first, *_) = run.figures
    assert f"loss {first['loss']:.4f}  squared loss {first['squared_loss']:.4f}  norm" in out
    assert "the data has ended" not in out
    fit(keys, [batch(0)], settings={"train-iters": 2})
    assert "the data has ended: 1 of 2 steps are done\n" in capsys.readouterr().out
    fit(keys, batch, settings={"train-iters": 2}, verbose=False)
    assert capsys.readouterr().out == ""


def test_parameters_after_each_step(keys: dict[str, Any]) -> None:
    """Those at the end are those that the last callback saw; they may be kept as they are."""
    seen: list[dict[str, Any]] = []

    def keep(progress: Any) -> None:
        seen.append(progress.params)

    run = fit(keys, batch, settings={"train-iters": 3}, callbacks=[keep], verbose=False)
    for name, last in run.params.items():
        np.testing.assert_array_equal(last, seen[-1][name])
    assert any((seen[0][name] != seen[1][name]).any() for name in seen[0])


def fails_in_callback(progress: Any) -> None:
    if progress.step == 3:
        raise LookupError("mine")


def fails_in_batch(step: int) -> np.ndarray:
    if step == 3:
        raise LookupError("mine")
    return batch(step)


def three_and_an_error() -> Iterator[np.ndarray]:
    yield from (batch(step) for step in range(3))
    raise LookupError("mine")


@pytest.mark.parametrize(
    ("data", "callbacks"),
    [(batch, [fails_in_callback]), (fails_in_batch, []), (three_and_an_error(), [])],
)
def test_an_error_of_ones_own(
    data: Any, callbacks: Any, keys: dict[str, Any], tmp_path: Path
) -> None:
    """It arrives with its own traceback, and what was learned until then is saved."""
    settings = {"train-iters": 5, "save": tmp_path / "run"}
    with pytest.raises(LookupError, match="mine") as caught:
        fit(keys, data, settings=settings, callbacks=callbacks, verbose=False)
    assert Path(caught.traceback[-1].path) == Path(__file__)
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3]
    assert (tmp_path / "run/step_3").is_dir()


def test_an_error_of_a_callback_comes_before_that_of_losses(keys: dict[str, Any]) -> None:
    def refuse(progress: Any) -> None:
        assert math.isfinite(progress.figures["loss"])

    def own(model: Any, params: Any, fields: Any) -> Any:
        return model.token_losses(params, fields["tokens"]) * jnp.nan

    with pytest.raises(AssertionError):
        fit(keys, batch, objective=own, callbacks=[refuse], verbose=False)


def test_a_folder_that_another_run_writes(keys: dict[str, Any], tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(UserError, match="is in use by process"):
        fit(keys, batch, settings={"save": tmp_path / "run"}, verbose=False)


def test_in_a_thread(keys: dict[str, Any]) -> None:
    """Where Python lets nobody look at signals."""
    found: list[Any] = []

    def work() -> None:
        found.append(fit(keys, batch, settings={"train-iters": 2}, verbose=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [run.step for run in found] == [2]


@pytest.mark.slow
def test_on_a_mesh(keys: dict[str, Any]) -> None:
    """The same losses as on one device; their own order of additions changes them by 1e-6.

    A loss, a callback and a function of batches compute with jnp as they do on one device.
    """

    def own(model: Any, params: Any, fields: Any) -> Any:
        return model.token_losses(params, fields["tokens"]) + jnp.mean(params["embed.tokens"] ** 2)

    def norm(progress: Any) -> None:
        norms.append(float(jnp.linalg.norm(progress.params["layers.mlp.up"])))

    def tokens(step: int) -> Any:
        return jnp.asarray(batch(step)) + jnp.zeros((), int)

    def run(mesh: str, **more: Any) -> list[float]:
        settings = {"train-iters": 3} | more
        norms.clear()
        fitted = fit(
            keys,
            tokens,
            settings=settings,
            objective=own,
            callbacks=[norm],
            mesh=mesh,
            verbose=False,
        )
        last = np.linalg.norm(fitted.params["layers.mlp.up"])
        assert (len(norms), norms[-1]) == (3, pytest.approx(last, rel=1e-5))
        assert fitted.model(batch(0)[:, :-1]).shape == (SIZE, LENGTH, 512)
        return [row["loss"] for row in fitted.figures]

    norms: list[float] = []
    expected = run("dp=1")
    assert run("dp=2,tp=2") == pytest.approx(expected, rel=1e-6)
    for stage in (0, 3):  # below 2 the gradients of training may be partial sums
        cut = {"gradient_accumulation_steps": 2, "zero_optimization": {"stage": stage}}
        assert run("dp=2,tp=2", **cut) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="cannot be trained with pp above 1"):
        run("pp=2")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda step: np.zeros((2, 17), int), r"batch 0: tokens is int64 \[2, 17\].*\[4, 17\]"),
        (lambda step: np.zeros((4, 17)), "batch 0: tokens is float64"),
        (lambda step: np.full((4, 17), 999), r"batch 0: tokens\[0, 0\] is 999, outside"),
        (lambda step: {"weights": np.full((4, 16), -1.0)}, "expected weights of 0 or"),
        (lambda step: {"x": np.zeros((4, 16))}, "neither `tokens` nor `weights`"),
        (lambda step: {"tokens": batch(0), "x": np.zeros(3)}, r"x is float64 \[3\].*4 rows"),
        (lambda step: {"tokens": batch(0), "x": [2**40] * 4}, "x has integers beyond 32 bits"),
        (lambda step: {"tokens": batch(0), 3: np.zeros(4)}, "3 is no field's name"),
        (lambda step: {"weights": np.ones((4, 16))}, "no field `tokens`, but weights"),
        (lambda step: {"tokens": batch(0), "weights": np.ones(4)}, r"shape \[4\], .*\[4, 16\]"),
        (lambda step: (batch(0), np.ones((4, 16))), "tokens is no array, .*by name"),
        ([], "the iterable has no batch"),
        ("data.jsonl", "data: found str, expected an iterable"),
        ({"tokens": batch(0)}, "data: found dict, expected an iterable"),
        (5, "data: found int, expected an iterable"),
    ],
)
def test_a_batch_that_does_not_fit(data: Any, says: str, keys: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=says):
        fit(keys, data, settings={"train-iters": 2}, verbose=False)


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (lambda model, params, fields: jnp.float32(1), r"loss is of the shape \[\], .*\[4, 16\]"),
        (lambda model, params, fields: None, "loss is NoneType, expected an array"),
        (lambda m, p, f: [f["weights"], {}], "loss is list, expected an array"),
        (lambda m, p, f: (f["weights"], {}, {}), r"returned \(.*, dict, dict\), expected losses"),
        (lambda m, p, f: (f["weights"], f["weights"]), "and a dictionary of figures"),
        (lambda m, p, f: (f["weights"], {3: f["weights"]}), "3 is no figure's name"),
        (lambda m, p, f: (f["weights"], {"x": 3.0}), "x is float, expected an array"),
        (lambda m, p, f: (f["weights"], {"valid_loss": f["weights"]}), "a figure valid_loss"),
        (lambda m, p, f: (f["weights"], {"lr": f["weights"]}), "every run has a figure lr"),
        (lambda m, p, f: (f["weights"], {"x": f["weights"][0]}), r"x is of the shape \[16\]"),
        ("cross entropy", "found str, expected a function"),
    ],
)
def test_an_objective_that_cannot_be_used(objective: Any, says: str, keys: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=says):
        fit(keys, batch, settings={"train-iters": 2}, objective=objective, verbose=False)


@pytest.mark.parametrize("lr", [jnp.float32(0.5), np.float64(0.5), np.array(0.5)])
def test_numbers_of_arrays_as_keys(lr: Any) -> None:
    keys = keys_of({"optimizer": {"lr": lr, "betas": np.array([0.5, 1.0])}})
    assert keys == {"optimizer": {"lr": 0.5, "betas": [0.5, 1.0]}}
    assert type(keys["optimizer"]["lr"]) is float


def test_keys_that_are_wrong(keys: dict[str, Any], tmp_path: Path) -> None:
    for settings, says in (
        ({"learning_rat": 1}, "learning_rat"),
        ({"lr": object()}, "lr is object, expected what YAML has"),
        ({"seq-length": 8, "seq_length": 8}, "seq_length is there twice"),
        ({1: 2}, "1 is no key"),
        (["lr"], "found .'lr'., expected a dictionary of keys"),
    ):
        with pytest.raises(UserError, match=says):
            fit(keys, batch, settings=settings, verbose=False)
    for config, says in (
        (None, "config: found None, expected a dictionary of keys"),
        ([{"lr": 1}], "config: found .*expected a dictionary"),
        ([], "config: names nothing; 'stdlib' is"),
    ):
        with pytest.raises(UserError, match=says):
            fit(config, batch, verbose=False)  # type: ignore[arg-type]
    for callbacks in (print, [3]):
        with pytest.raises(UserError, match=r"callbacks: found .*expected a list of functions"):
            fit(keys, batch, callbacks=callbacks, verbose=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"mesh: found .*expected devices by axis"):
        jaxneox.fit(keys, batch, mesh={"dp": 1}, verbose=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nowhere"):
        fit(str(tmp_path / "nowhere.yml"), verbose=False)
