"""One small training run on any mesh, and what is compared between meshes."""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxneox.config.schema import (
    AttentionConfig,
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    InitConfig,
    LogConfig,
    MlpConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PositionConfig,
    PrecisionConfig,
    RematConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
)
from jaxneox.model import Params
from jaxneox.objectives import Objective
from jaxneox.parallel.mesh import Sizes, make_mesh
from jaxneox.train.plan import build_plan
from jaxneox.train.step.state import TrainState, state_shardings, with_params
from jaxneox.train.step.step import Metrics, Step
from tests.reference.parameters import random_params

STEPS, BATCH, LENGTH, VOCAB = 5, 16, 16, 64
EOD = 0  # of runs whose `data` asks for documents
HASTE = {"xla_backend_optimization_level": 0}
"""Compiling is nearly all the time that a tiny model takes; this halves it."""

MODEL = ModelConfig(
    num_layers=8,
    hidden_size=32,
    vocab_size=VOCAB,
    seq_length=LENGTH,
    attention=AttentionConfig(num_heads=8, kv_heads=4, head_dim=4),
    mlp=MlpConfig(size=64, activation="gelu_tanh"),
    positions=PositionConfig(kind="rotary", rotary_fraction=0.5, max_positions=LENGTH),
    init=InitConfig(method="small_init", output_method="wang_init"),
    parallel_residual=True,
    tied_embedding=False,
)


Fields = dict[str, np.ndarray]
"""A global batch's fields [G, *] by name."""


class Mesh(NamedTuple):
    """A shape of the devices and everything that must not change the result."""

    dp: int = 1
    tp: int = 1
    zero: int = 0
    sequence: bool = False
    accumulation: int = 1
    pp: int = 1
    chunks: int = 1
    cp: int = 1
    attention: Literal["gather", "ring"] = "gather"
    ep: int = 1

    @property
    def sizes(self) -> Sizes:
        experts = {"ep": self.ep} if self.ep > 1 else {}
        return {"pp": self.pp, "dp": self.dp, **experts, "cp": self.cp, "tp": self.tp}

    def __str__(self) -> str:
        axes = [f"{name}{size}" for name, size in self.sizes.items() if size > 1]
        axes += [f"chunks{self.chunks}"] * (self.chunks > 1) + [self.attention] * (self.cp > 1)
        axes += ["sequence"] * self.sequence
        return "-".join([*axes, f"zero{self.zero}", f"accumulation{self.accumulation}"])


class Outcome(NamedTuple):
    losses: list[float]
    norms: list[float]  # of the gradients, before they are clipped
    grads: dict[str, np.ndarray]  # of the first step
    params: dict[str, np.ndarray]  # after the last
    figures: dict[str, float]  # of the first step


class Probe(Step):
    """The step that training compiles, with its gradients among the figures."""

    def update(self, state: TrainState, grads: Params, finite: jax.Array) -> Any:
        self.__dict__["seen"] = grads
        return super().update(state, grads, finite)

    def figures(self, *args: Any) -> Metrics:
        return super().figures(*args) | {"grads": self.__dict__["seen"]}


def config(model: ModelConfig, mesh: Mesh, batch: int = BATCH, **changes: Any) -> Config:
    parts = Config(
        model=model,
        precision=PrecisionConfig(),
        optimizer=OptimizerConfig("adam", lr=1e-3, betas=(0.9, 0.95), grad_clip=1.0),
        schedule=ScheduleConfig("cosine", lr=1e-3, min_lr=1e-4, decay_iters=10),
        parallel=ParallelConfig(
            tp=mesh.tp,
            pp=mesh.pp,
            cp=mesh.cp,
            zero_stage=mesh.zero,  # type: ignore[arg-type]
            sequence_parallel=mesh.sequence,
            chunks=mesh.chunks,
            attention=mesh.attention,
        ),
        batch=BatchConfig(
            batch, batch // mesh.accumulation // mesh.dp // mesh.ep, mesh.accumulation
        ),
        remat=RematConfig("full"),
        tokenizer=TokenizerConfig(),
        data=DataConfig(),
        checkpoint=CheckpointConfig(),
        log=LogConfig(),
        train=TrainConfig(STEPS),
    )
    return dataclasses.replace(parts, **changes)


def tokens() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, VOCAB, (STEPS, BATCH, LENGTH + 1)).astype(np.int32)


def train(
    mesh: Mesh,
    model: ModelConfig = MODEL,
    *,
    batches: np.ndarray | list[Fields] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    reference: dict[str, np.ndarray] | None = None,
    aim: Objective | None = None,
    sizes: Sizes | None = None,
    **changes: Any,
) -> Outcome:
    """Five steps from the same weights on the same batches, or these steps from these weights.

    Args:
        mesh: the devices.
        model: the architecture.
        batches: of tokens [steps, G, T + 1], or each with the fields [G, *] of an objective.
        weights: all parameters by name; drawn if they are not given.
        reference: those of the reference model, where it has its own; else the weights.
        aim: another objective than the configuration's.
        sizes: of the mesh's own axes; those of `mesh` unless given.
        changes: parts of the configuration.
    """
    given = [as_fields(batch) for batch in (tokens() if batches is None else batches)]
    cfg = config(model, mesh, len(given[0]["weights"]), **changes)
    plan = build_plan(cfg, sizes or mesh.sizes, EOD)
    if aim is not None:
        plan = dataclasses.replace(plan, objective=aim)
    devices = make_mesh(plan.mesh_sizes)
    shardings = state_shardings(plan, devices)
    step = jax.jit(Probe(plan), compiler_options=HASTE)
    lay = NamedSharding(devices, plan.rules.activation(None, "batch"))
    losses, norms, first = [], [], {}
    with jax.set_mesh(devices):
        leaves = jax.device_put(weights or random_params(model, 0), shardings.params)
        start = jax.jit(partial(with_params, plan), out_shardings=shardings)
        state = start(leaves)
        if reference is not None:
            state = state._replace(reference=jax.device_put(reference, shardings.reference))
        for batch in given:
            cut = {n: x.reshape(mesh.accumulation, -1, *x.shape[1:]) for n, x in batch.items()}
            state, figures = step(state, jax.device_put(cut, lay))
            losses.append(float(figures["loss"]))
            norms.append(float(figures["grad_norm"]))
            first = first or jax.device_get(figures)
        params = jax.device_get(state.params)
    grads = first.pop("grads")
    return Outcome(
        losses, norms, grads, params, {n: float(x) for n, x in first.items() if not np.ndim(x)}
    )


def as_fields(batch: np.ndarray | Fields) -> Fields:
    """Return a batch's fields: of tokens alone, all labels count."""
    if isinstance(batch, dict):
        return batch
    return {"tokens": batch, "weights": np.ones_like(batch[:, 1:], np.float32)}


def apart(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The relative L2 distance of each leaf."""
    return {
        name: float(np.linalg.norm(found[name] - x) / np.linalg.norm(x))
        for name, x in expected.items()
    }
