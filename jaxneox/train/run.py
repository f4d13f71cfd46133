"""A training run put together: plan, mesh, state, data and folder."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import yaml
from jax.sharding import Mesh

from jaxneox import base_model, checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Damaged
from jaxneox.config import saved_keys
from jaxneox.config.schema import Config, LogConfig, ScheduleConfig
from jaxneox.console.say import tell
from jaxneox.console.waiting import waiting
from jaxneox.data import GivenBatches, Loader, Split, Tokenizer, TokensFile, open_loader
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.loading.load import locate
from jaxneox.parallel.mesh import make_mesh
from jaxneox.saver import save_config
from jaxneox.train.checkpoints import reference
from jaxneox.train.checkpoints.restore import initial_state
from jaxneox.train.checkpoints.resume import (
    Base,
    ResumePoint,
    agreed_resume_point,
    check_base,
    check_data,
    check_model,
    earlier,
    note_optimizer,
    schedule_before,
)
from jaxneox.train.loop.replicas import Replicas
from jaxneox.train.plan import TrainPlan
from jaxneox.train.reporting.callbacks import Callback
from jaxneox.train.reporting.metrics import Sink
from jaxneox.train.step.flops import peak_flops
from jaxneox.train.step.state import TrainState


@dataclass
class Run:
    """A plan on its mesh, with its state and its data.

    Attributes:
        plan: what was known before anything was allocated.
        mesh: the devices.
        state: parameters, optimizer and counts; replaced by every step.
        loader: the training batches.
        tokenizer: None if the run's tokenizer is not at hand.
        first: the step at which the loader's first batch is due.
        folder: where the run saves; None if it does not.
        peak: the FLOP/s that the devices reach at most; None if that is unknown.
        replicas: compares the devices' copies of each array; None unless it is asked for.
        base: how a checkpoint records the model beside which the run trains; None if it trains
            a whole model.
        reference: how a checkpoint records the model at the run's start, if it is a reference.
        schedule_before: the learning rate schedule of the checkpoint whose training goes on.
        sinks: where the figures of every step go besides the configured places.
        callbacks: called with the progress after every step.
        quiet: whether neither notes nor steps are shown.
    """

    plan: TrainPlan
    mesh: Mesh
    state: TrainState
    loader: Loader
    tokenizer: Tokenizer | None
    first: int
    folder: Path | None
    peak: float | None = None
    replicas: Replicas | None = None
    base: dict[str, str] | None = None
    reference: dict[str, Any] | None = None
    schedule_before: ScheduleConfig | None = None
    sinks: Sequence[Sink] = ()
    callbacks: Sequence[Callback] = ()
    quiet: bool = False

    @property
    def cfg(self) -> Config:
        return self.plan.cfg

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return int(self.state.step)

    @property
    def last(self) -> int:
        """The step at which the run ends: train-iters, or the end of a given file of tokens."""
        end = self.cfg.train.train_iters
        if isinstance(self.loader, TokensFile):
            return min(end, self.first + len(self.loader))
        return end

    def grows_at(self, step: int) -> bool:
        """Tell whether the step has more sequences than the one before, or longer ones."""
        size, at, curriculum = self.loader.sizes.size, step - self.first, self.plan.curriculum
        if at > 0 and curriculum and curriculum.length(step) != curriculum.length(step - 1):
            return True
        return at > 0 and size(at) != size(at - 1)

    def loader_of(self, split: Split) -> Loader | None:
        """Open the batches of another split; None if the batches that are trained on were given."""
        if isinstance(self.loader, TokensFile | GivenBatches):
            return None
        return open_loader(self.cfg.data_run, self.tokenizer, split)

    def meta(self) -> dict[str, Any]:
        """Collect what a checkpoint says of itself besides its arrays."""
        names = ("jax", "flax", "optax", "orbax-checkpoint")
        models = {META: self.base, reference.META: self.reference}
        return {name: record for name, record in models.items() if record is not None} | {
            "keys": saved_keys(self.cfg),
            "data": {
                "first": self.first,
                "stages": [list(stage) for stage in self.loader.sizes.stages],
                "fingerprint": self.loader.fingerprint(),
            },
            "versions": {name: importlib.metadata.version(name) for name in names},
        }

    def write_config(self) -> None:
        """Write `config.yml` and the tokenizer beside the checkpoints."""
        if self.folder is None or not messages.is_first():
            return
        text = yaml.safe_dump(saved_keys(self.cfg), sort_keys=False)
        save_config(self.folder, text)
        if self.tokenizer is not None:
            self.tokenizer.save(self.folder / "tokenizer")


def start(
    plan: TrainPlan,
    tokenizer: Tokenizer | None,
    *,
    given: Callable[[], TokensFile | GivenBatches] | None = None,
    allow_data_change: bool = False,
    show: Callable[[str], object] = tell,
) -> Run:
    """Start a run at its first step, or where the checkpoint that it loads had stopped.

    If the newest checkpoint of its own is damaged, it is put aside and the one before is taken.

    Args:
        plan: the configuration on its mesh.
        tokenizer: the run's tokenizer, if it is at hand.
        given: opens batches to train on, instead of the configured data.
        allow_data_change: go on with other data than the checkpoint's.
        show: prints what is being waited for.

    Raises:
        UserError: the checkpoint does not fit, or the data is not there or not the same.
    """
    cfg = plan.cfg
    resume, base = agreed_resume_point(cfg.checkpoint), base_of(cfg)
    mesh = make_mesh(plan.mesh_sizes)
    peak = peak_of(cfg.log, mesh)
    loader: Loader | None = None
    while True:
        try:
            if resume is not None:
                check_resumed(resume, cfg)
                note_optimizer(resume, cfg)
            with waiting("opening the data", show):
                loader = loader or (given or partial(train_loader, cfg, tokenizer))()
            first = first_step(resume, loader, allow_data_change)
            source = resume or base
            begin = f"reading {source.location.folder}" if source else "drawing the parameters"
            with jax.set_mesh(mesh), waiting(begin, show):
                state = initial_state(plan, mesh, resume, base)
            break
        except Damaged as damage:
            assert resume is not None
            resume = earlier(resume, damage, cfg.checkpoint)
    hint = "the data must be the same files on every host"
    messages.check_same("the data", loader.fingerprint(), hint)
    folder = Path(cfg.checkpoint.save) if cfg.checkpoint.save else None
    return Run(
        plan=plan,
        mesh=mesh,
        state=state,
        loader=loader,
        tokenizer=tokenizer,
        first=first,
        folder=folder,
        peak=peak,
        base=base and recorded(base, resume, state),
        reference=reference.recorded(cfg, resume, state),
        schedule_before=schedule_before(resume),
    )


def peak_of(log: LogConfig, mesh: Mesh) -> float | None:
    """Return the peak FLOP/s of a mesh: as the user says it, or as known or measured here.

    It comes before the parameters are drawn, because a CPU computes one thing after another.
    """
    if log.peak_tflops:
        return log.peak_tflops * 1e12
    return peak_flops(list(mesh.devices.flat))


def base_of(cfg: Config) -> Base | None:
    """Find the model beside which a run trains LoRA's matrices; None if it trains a whole model.

    Raises:
        UserError: it is not said, not there, or another model.
    """
    if cfg.model.lora is None:
        return None
    where = cfg.checkpoint.base
    if where is None:
        raise UserError(
            "lora: there is no model to train it beside: name a run, a Hugging Face folder or a "
            "hub's repository with --load, or as `base` in the block"
        )
    base = Base(locate(where), where)
    check_base(base.location, cfg.model)
    return base


def check_resumed(resume: ResumePoint, cfg: Config) -> None:
    """Refuse a checkpoint of another model, or a whole model where an adapter goes on."""
    is_adapter = META in checkpoint.read_meta(resume.location)
    if is_adapter != (cfg.model.lora is not None):
        found, expected = ("an adapter", "no lora") if is_adapter else ("a whole model", "lora")
        raise UserError(
            f"{resume.location.folder}: holds {found}, and the configuration has {expected}: keep "
            f"the keys of {resume.location.run}/config.yml"
        )
    check_model(resume, cfg.model)


def recorded(base: Base, resume: ResumePoint | None, state: TrainState) -> dict[str, str]:
    """Describe the base for checkpoints, by its parameters before any of them was trained."""
    if resume is not None:
        there: dict[str, str] = checkpoint.read_meta(resume.location)[META]
        return there | {"where": base.where}
    names = checkpoint.read_shapes(base.location)
    params = {name: state.params[name] for name in names if name in state.params}
    return base_model.record(base.where, checkpoint.params_sums(base.location, params))


def first_step(resume: ResumePoint | None, loader: Loader, allowed: bool) -> int:
    """Return the run's step at which the loader's first batch is due."""
    if resume is None or resume.weights_only:
        return 0
    if isinstance(loader, GivenBatches):
        return 0 if loader.by_step else resume.location.step
    if isinstance(loader, TokensFile):
        return check_data(resume.location, loader, resume.location.step, True)
    return check_data(resume.location, loader, 0, allowed)


def train_loader(cfg: Config, tokenizer: Tokenizer | None) -> Loader:
    if not cfg.train.train_iters:
        raise UserError("train_iters is 0: say how many steps to train with --set train-iters=N")
    loader = open_loader(cfg.data_run, tokenizer, "train")
    if loader is None:
        raise UserError("the training split is empty: give it a part of `split`, or more data")
    return loader
