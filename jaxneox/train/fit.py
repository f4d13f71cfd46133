"""`jaxneox.fit`: the training command's loop from Python."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import jax

from jaxneox.config import Config, Settings, keys_of, override
from jaxneox.console.say import say, tell
from jaxneox.data import Batches, BatchSizes, GivenBatches, Tokenizer
from jaxneox.errors import UserError, cut
from jaxneox.frozen import FrozenParams
from jaxneox.loading import LoadedModel
from jaxneox.loading.pure import plain
from jaxneox.loading.resting import laid_out
from jaxneox.model import Model
from jaxneox.objectives import Objective
from jaxneox.objectives.own import Own, OwnLoss
from jaxneox.parallel.compilation import use_compilation_cache
from jaxneox.parallel.mesh import asked_sizes, final_sizes, make_mesh, prepare_devices, whole
from jaxneox.parallel.rules import rules_for
from jaxneox.train.checkpoints.lock import locked
from jaxneox.train.keys import read_keys, with_base
from jaxneox.train.loop.loop import train
from jaxneox.train.plan import TrainPlan
from jaxneox.train.reporting import summary
from jaxneox.train.reporting.callbacks import Callback
from jaxneox.train.reporting.metrics import Figures
from jaxneox.train.run import Run, start
from jaxneox.train.session import check_learning_rate, fitting, plan_with, tokenizer_for

Configuration = str | PathLike[str] | Mapping[str, Any] | Sequence[str | PathLike[str]]


class FittedRun:
    """A run that `jaxneox.fit` has trained.

    Attributes:
        figures: of each step that was trained now, as in metrics.jsonl.
        finished: whether it came to train-iters; else it was stopped, or its data has ended.
    """

    def __init__(self, run: Run, figures: Sequence[Figures], finished: bool):
        self.figures, self.finished = list(figures), finished
        run.state = run.state._replace(opt_state=())  # a sweep holds many runs
        self._run = run

    def __repr__(self) -> str:
        loss = f", loss {self.figures[-1]['loss']:.4f}" if self.figures else ""
        where = "not saved" if self.folder is None else str(self.folder)
        return f"FittedRun(step {self.step} of {self._run.cfg.train.train_iters}{loss}, {where})"

    @property
    def config(self) -> Config:
        """The whole configuration."""
        return self._run.cfg

    @property
    def step(self) -> int:
        """How many steps are done, also by earlier starts of the run."""
        return self._run.step

    @property
    def folder(self) -> Path | None:
        """The run's folder; None if it was not saved."""
        return self._run.folder

    @cached_property
    def params(self) -> FrozenParams:
        """The trained parameters by dotted names, float32, as `jaxneox.load` has them."""
        each = self._run.state.params.items()
        return FrozenParams({name: plain(w, self._run.mesh) for name, w in each})

    @cached_property
    def model(self) -> LoadedModel:
        """The trained model, in float32, on the first tp devices of the run's mesh."""
        sizes = whole({"tp": self._run.plan.sizes["tp"]})
        rules, mesh = rules_for(sizes, 0, False), make_mesh(sizes)
        model = Model(self.config.model, rules)
        params = laid_out(self.params, model, rules, mesh)
        return LoadedModel(self.config, params, self._run.tokenizer, mesh, rules, "float32")


class Figured:
    """Keeps the figures of every step."""

    def __init__(self) -> None:
        self.figures: list[Figures] = []

    def write(self, step: int, figures: Figures) -> None:
        self.figures.append({"step": step} | figures)

    def close(self) -> None:
        """There is nothing to close."""


def fit(
    config: Configuration,
    data: Batches | None,
    settings: Mapping[str, Any],
    objective: Objective | OwnLoss | None,
    callbacks: Sequence[Callback],
    mesh: str | None,
    verbose: bool,
) -> FittedRun:
    """Train; see `jaxneox.fit`."""
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise UserError(f"callbacks: found {cut(repr(callbacks))}, expected a list of functions")
    if not isinstance(mesh, str | None):
        raise UserError(f"mesh: found {cut(repr(mesh))}, expected devices by axis, as 'dp=2,tp=4'")
    own = keys_of(settings)
    settled = Settings(with_base(override(keys_from(config, own), list(own.items()))))
    if data is not None and settled["train_epochs"] is not None:
        raise UserError("train_epochs: batches of a Python program have no epochs: set train_iters")
    if settled.checkpoint.save_base_shapes:
        raise UserError("save_base_shapes trains nothing: `jaxneox train` writes the file")
    asked = asked_sizes(mesh, settled.parallel)
    with contextlib.suppress(RuntimeError):  # jax has started: its devices are what they are
        prepare_devices(asked)
    sizes = final_sizes(asked, jax.device_count())
    use_compilation_cache()
    tokenizer = tokenizer_for(settled)
    plan = plan_with(tokenizer, settled, sizes)
    if objective is not None:
        plan = with_objective(plan, objective_of(objective))
    if verbose:
        summary.greet(plan, tokenizer.notes if tokenizer else ())
    save = plan.cfg.checkpoint.save
    with locked(Path(save) if save else None), fitting(plan):
        return trained(plan, tokenizer, data, callbacks, verbose)


def trained(
    plan: TrainPlan,
    tokenizer: Tokenizer | None,
    data: Batches | None,
    callbacks: Sequence[Callback],
    verbose: bool,
) -> FittedRun:
    """Start the run where it stands, and train it to its end."""
    given = None if data is None else partial(given_batches, plan, data)
    kept, show = Figured(), tell if verbose else str
    run = start(plan, tokenizer, given=given, show=show)
    run.sinks, run.callbacks, run.quiet = (kept,), tuple(callbacks), not verbose
    if run.step >= run.last:
        if verbose:
            say(nothing_to_do(run) if data is not None else summary.already_done(run))
        return FittedRun(run, (), True)
    if run.step and verbose:
        say(summary.continuing(run))
    check_learning_rate(run)
    finished = train(run)
    return FittedRun(run, kept.figures, finished)


def nothing_to_do(run: Run) -> str:
    """Say that a run with batches of a Python program has no step left."""
    longer = f"settings={{'train-iters': {2 * run.step}}}"
    return f"nothing to do: step {run.step} of {run.last} is done; train on with {longer}"


def keys_from(config: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the keys of a configuration in any of its forms."""
    if isinstance(config, Mapping):
        return keys_of(config)
    paths = [config] if isinstance(config, str | PathLike) else config
    if not isinstance(paths, Sequence) or not all(isinstance(p, str | PathLike) for p in paths):
        raise UserError(
            f"config: found {cut(repr(config))}, expected a dictionary of keys, or names or paths "
            "of YAML files, or the folder of a run"
        )
    if not paths:
        raise UserError("config: names nothing; 'stdlib' is a shipped one to begin with")
    save, finetune = settings.get("save"), bool(settings.get("finetune"))
    return read_keys([os.fspath(path) for path in paths], save=save, finetune=finetune)


def with_objective(plan: TrainPlan, objective: Objective) -> TrainPlan:
    """Return a plan of training for another objective."""
    if plan.curriculum is not None:
        raise UserError(
            "curriculum_learning: cuts rows of tokens and weights, and an objective of one's own "
            "may have other fields: leave one of the two out"
        )
    return replace(plan, objective=objective)


def objective_of(given: Objective | OwnLoss) -> Objective:
    """Return an objective, made of a function of one's own if it is one."""
    if isinstance(given, Objective):
        return given
    if not callable(given):
        raise UserError(f"objective: found {type(given).__name__}, expected a function")
    return Own(given)


def given_batches(plan: TrainPlan, data: Batches) -> GivenBatches:
    """Take the batches of a Python program for a run."""
    cfg, batch = plan.cfg, plan.cfg.batch
    return GivenBatches(
        data,
        sizes=BatchSizes(batch.global_size, batch.ramp),
        seq_length=cfg.model.seq_length,
        vocab_size=cfg.model.vocab_size,
        shapes={name: field.shape for name, field in plan.objective.fields.items()},
    )
