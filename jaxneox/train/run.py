"""A run put together: configuration, mesh, model, data and state."""

import importlib.metadata
import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
import yaml
from jax.sharding import Mesh

from jaxneox import checkpoint
from jaxneox.checkpoint import Damaged
from jaxneox.config import saved_keys, schedule_of
from jaxneox.config.schema import Config, DataConfig, ScheduleConfig
from jaxneox.data import Loader, Split, Tokenizer, TokensFile, open_loader
from jaxneox.errors import UserError
from jaxneox.hosts import talk
from jaxneox.model import Documents, Model
from jaxneox.optim.optimizer import build_optimizer
from jaxneox.parallel.mesh import Sizes, check_divides, make_mesh, whole
from jaxneox.parallel.rules import Rules, rules_for
from jaxneox.parallel.schedule import Schedule
from jaxneox.train.origin import (
    Origin,
    agreed_origin,
    check_data,
    check_model,
    earlier,
    note_optimizer,
)
from jaxneox.train.replicas import Replicas
from jaxneox.train.state import (
    TrainState,
    new_state,
    on_mesh,
    places,
    state_specs,
    with_params,
)


@dataclass(frozen=True)
class Plan:
    """What can be said of a run without allocating anything."""

    cfg: Config
    sizes: Sizes
    rules: Rules
    model: Model
    optimizer: optax.GradientTransformation

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.model.shapes.values())

    @property
    def schedule(self) -> Schedule | None:
        """Of the pipeline's stages, where there are several."""
        stages, chunks = self.sizes["pp"], self.cfg.parallel.chunks
        return Schedule(stages, chunks, self.cfg.batch.accumulation) if stages > 1 else None


def build_plan(cfg: Config, sizes: Sizes, eod: int | None = None) -> Plan:
    """`eod` is the tokenizer's token that ends a document.

    Raises UserError where the mesh does not divide what it splits, or a feature needs what is not
    there.
    """
    sizes = whole(sizes)
    parallel, ring = cfg.parallel, rings(cfg, sizes["cp"])
    check_divides(sizes, cfg.model, parallel, ring)
    rules = rules_for(sizes, parallel.zero_stage, parallel.sequence_parallel, parallel.chunks, ring)
    model = Model(
        cfg.model,
        rules,
        cfg.precision.compute,
        cfg.remat,
        cfg.train.z_loss,
        cfg.precision.loss_fp32,
        documents_of(cfg.data, eod),
    )
    for name, axes in model.axes.items():
        rules.check(name, axes, model.shapes[name])
    return Plan(cfg, sizes, rules, model, build_optimizer(cfg.optimizer, cfg.schedule, model.axes))


def documents_of(data: DataConfig, eod: int | None) -> Documents | None:
    """What training tells apart in a row."""
    names = ("reset_attention_mask", "reset_position_ids")
    asked = [name for name in names if getattr(data, name)]
    if not asked:
        return None
    if eod is None:
        raise UserError(
            f"{asked[0]}: true, but there is no tokenizer with an <|endoftext|> token, and nothing "
            "names another; set eod-token"
        )
    return Documents(eod, data.reset_attention_mask, data.reset_position_ids)


def rings(cfg: Config, cp: int) -> bool:
    """Whether attention over cp is a ring. It has no place for masks of dropout and for biases that
    are learned, which are drawn and looked up for whole sequences."""
    attention, positions = cfg.model.attention, cfg.model.positions
    named = {
        "attention-dropout": attention.dropout > 0,
        "pos-emb rpe": positions.kind == "rpe",
    }
    hindered = [name for name, there in named.items() if there]
    if cp == 1:
        return False
    if cfg.parallel.attention == "ring" and hindered:
        raise UserError(
            f"context-parallel-attention: ring cannot do {' and '.join(hindered)}; expected gather"
        )
    possible = cfg.model.seq_length % (2 * cp) == 0 and not hindered
    return cfg.parallel.attention == "ring" or (cfg.parallel.attention == "auto" and possible)


@dataclass
class Run:
    """A plan on its mesh, with its state and its data."""

    plan: Plan
    mesh: Mesh
    state: TrainState
    loader: Loader
    tokenizer: Tokenizer | None
    first: int  # the step at which the loader's first batch is due
    folder: Path | None  # where it saves, if it does
    replicas: Replicas | None = None  # where they are to be compared
    schedule_before: ScheduleConfig | None = None  # of the checkpoint whose training goes on

    @property
    def cfg(self) -> Config:
        return self.plan.cfg

    @property
    def step(self) -> int:
        return int(self.state.step)

    @property
    def last(self) -> int:
        """The step at which the run ends: train-iters, or the end of a given file of tokens."""
        end = self.cfg.train.train_iters
        if isinstance(self.loader, TokensFile):
            return min(end, self.first + len(self.loader))
        return end

    def grows_at(self, step: int) -> bool:
        """Whether the step has another number of sequences than the one before."""
        size, at = self.loader.sizes.size, step - self.first
        return at > 0 and size(at) != size(at - 1)

    def loader_of(self, split: Split) -> Loader | None:
        if isinstance(self.loader, TokensFile):
            return None
        return open_loader(self.cfg.data_run, self.tokenizer, split)

    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of itself besides its arrays."""
        names = ("jax", "flax", "optax", "orbax-checkpoint")
        return {
            "keys": saved_keys(self.cfg),
            "data": {
                "first": self.first,
                "stages": [list(stage) for stage in self.loader.sizes.stages],
                "fingerprint": self.loader.fingerprint(),
            },
            "versions": {name: importlib.metadata.version(name) for name in names},
        }

    def write_config(self) -> None:
        """`config.yml` and the tokenizer, beside the checkpoints."""
        if self.folder is None or not talk.is_first():
            return
        text = yaml.safe_dump(saved_keys(self.cfg), sort_keys=False)
        checkpoint.save_config(self.folder, text)
        if self.tokenizer is not None:
            self.tokenizer.save(self.folder / "tokenizer")


def start(
    plan: Plan,
    tokenizer: Tokenizer | None,
    *,
    tokens: str | None = None,
    allow_data_change: bool = False,
) -> Run:
    """A run at its first step, or where the checkpoint that it loads had stopped.

    A damaged newest checkpoint of its own is put aside, and the one before taken.
    """
    cfg = plan.cfg
    came_from = agreed_origin(cfg.checkpoint)
    mesh = make_mesh(plan.sizes)
    loader: Loader | None = None
    while True:
        try:
            if came_from is not None:
                check_model(came_from, cfg.model)
                note_optimizer(came_from, cfg)
            loader = loader or train_loader(cfg, tokenizer, tokens)
            allowed = allow_data_change or tokens is not None
            first = first_step(came_from, loader, tokens, allowed)
            with jax.set_mesh(mesh):
                state = initial_state(plan, mesh, came_from)
            break
        except Damaged as damage:
            assert came_from is not None
            came_from = earlier(came_from, damage, cfg.checkpoint)
    hint = "the data must be the same files on every host"
    talk.check_same("the data", loader.fingerprint(), hint)
    folder = Path(cfg.checkpoint.save) if cfg.checkpoint.save else None
    run = Run(plan, mesh, state, loader, tokenizer, first, folder)
    if came_from is not None and not came_from.weights_only:
        with suppress(UserError):  # keys that say nothing of a training
            run.schedule_before = schedule_of(checkpoint.read_meta(came_from.place)["keys"])
    return run


def first_step(came_from: Origin | None, loader: Loader, tokens: str | None, allowed: bool) -> int:
    """The run's step at which the loader's first batch is due."""
    if came_from is None or came_from.weights_only:
        return 0
    next_step = came_from.place.step if tokens is not None else 0
    return check_data(came_from.place, loader, next_step, allowed)


def train_loader(cfg: Config, tokenizer: Tokenizer | None, tokens: str | None) -> Loader:
    if tokens is not None:
        return TokensFile(
            tokens,
            global_batch=cfg.batch.global_size,
            seq_length=cfg.model.seq_length,
            vocab_size=cfg.model.vocab_size,
        )
    if not cfg.train.train_iters:
        raise UserError("train_iters is 0: say how many steps to train with --set train-iters=N")
    loader = open_loader(cfg.data_run, tokenizer, "train")
    if loader is None:
        raise UserError("the training split is empty: give it a part of `split`, or more data")
    return loader


def initial_state(plan: Plan, mesh: Mesh, start: Origin | None) -> TrainState:
    cfg, abstract = plan.cfg, abstract_state(plan, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if start is None:
        new = partial(new_state, cfg, plan.model, plan.optimizer)
        return jax.jit(new, out_shardings=shardings)()
    params, training = talk.together(Damaged, partial(restore, start, abstract))
    if start.weights_only:
        checkpoint.check_sums(start.place, params=params)
        fresh = jax.jit(partial(with_params, cfg, plan.optimizer), out_shardings=shardings)
        return fresh(params)
    checkpoint.check_sums(start.place, params=params, training=training)
    return TrainState(params, **training)


def abstract_state(plan: Plan, mesh: Mesh) -> TrainState:
    """The train state as shapes with shardings."""
    specs = state_specs(plan.model, plan.optimizer, places(plan.model, plan.rules))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(partial(new_state, plan.cfg, plan.model, plan.optimizer)),
        on_mesh(mesh, specs),
    )


def restore(start: Origin, abstract: TrainState) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """This process's parts of the arrays."""
    wanted: Any = abstract.params
    params = checkpoint.restore_params(start.place, wanted)
    if start.weights_only:
        return params, {}
    return params, checkpoint.restore_training(start.place, training_part(abstract))


def training_part(state: TrainState) -> dict[str, Any]:
    """All of the state but its parameters, by name: what a checkpoint's `training` holds."""
    return {name: value for name, value in state._asdict().items() if name != "params"}
