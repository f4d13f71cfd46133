"""One step of training, compiled as a whole for any mesh."""
# A accumulation steps, B sequences of one of them, T length

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxneox.config.schema import Config
from jaxneox.model import Layout, Model, Noise, Params
from jaxneox.optim.schedule import build_schedule
from jaxneox.parallel.rules import Rules
from jaxneox.train.step.scaler import next_scale
from jaxneox.train.step.state import ParamSpecs, Specs, TrainState, optimizer_specs, param_specs

Metrics = dict[str, jax.Array]


class Batch(NamedTuple):
    """A global batch, in accumulation steps.

    Attributes:
        tokens: int32 [A, B, T + 1].
        weights: float32 [A, B, T], one for each token that is predicted.
    """

    tokens: jax.Array
    weights: jax.Array

    @property
    def inputs(self) -> jax.Array:
        """Every token of a sequence but the last."""
        return self.tokens[..., :-1]

    @property
    def labels(self) -> jax.Array:
        """The tokens that are predicted: every one but the first."""
        return self.tokens[..., 1:]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of training, with the constants it is compiled with."""

    cfg: Config
    model: Model
    optimizer: optax.GradientTransformation
    rules: Rules
    specs: ParamSpecs
    rate: optax.Schedule

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Compute the global batch's mean gradient, one update (if it is finite), and the figures.

        The weights are divided by their sum beforehand, so that sums over any split of the batch
        are the mean over all of it. A batch without any weight has no mean: it is skipped.
        """
        factor = state.scale.factor * replica_scale(self.cfg)
        share = batch.weights * (factor / jnp.sum(batch.weights))
        with self.model.matmuls():
            loss, grads = self.gradients(state, Batch(batch.tokens, share))
        loss, grads = jax.tree.map(lambda x: x / factor, (loss, grads))
        norm = global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        params, opt_state = self.update(state, grads, finite)
        after = TrainState(
            params=params,
            opt_state=opt_state,
            scale=next_scale(state.scale, finite, self.cfg.precision.loss_scale),
            step=state.step + 1,
            skipped=state.skipped + ~finite,
            streak=jnp.where(finite, 0, state.streak + 1),
        )
        return after, self.figures(state, after, loss, norm)

    def gradients(self, state: TrainState, batch: Batch) -> tuple[jax.Array, Params]:
        """Sum the loss and the gradients over the accumulation steps, in float32."""
        rows_AB = self.row_numbers(batch)
        key = jax.random.fold_in(jax.random.key(self.cfg.train.seed + 1), state.step)
        parts = rounds((batch, rows_AB), self.model.layout)
        gradient = jax.value_and_grad(partial(self.loss_sum, key))
        if jax.tree.leaves(parts)[0].shape[0] == 1:  # nothing to be added up
            loss, grads = gradient(state.params, *jax.tree.map(lambda x: x[0], parts))
        else:
            loss, grads = self.sum_over_rounds(gradient, state.params, parts)
        return loss, laid_out(grads, self.specs.updates)

    def row_numbers(self, batch: Batch) -> jax.Array:
        """Number the rows of the global batch, int32 [A, B], laid out as the batch is."""
        shape = batch.tokens.shape[:2]
        rows = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)
        return jax.reshard(rows.reshape(shape), self.rules.activation(None, "batch"))

    def loss_sum(
        self, key: jax.Array, params: Params, part: Batch, rows_MB: jax.Array
    ) -> jax.Array:
        """Sum the weighted loss of one round, with the dropout of the step's random key."""
        noise = Noise(key, rows_MB) if drops(self.cfg) else None
        return self.model.loss_sum(params, part.inputs, part.labels, part.weights, noise)

    def sum_over_rounds(
        self, gradient: Callable[..., tuple[jax.Array, Params]], params: Params, parts: Any
    ) -> tuple[jax.Array, Params]:
        """Add up what `gradient` returns for each of the rounds, which follow one another."""
        in_step = laid_out(params, self.specs.in_step)
        zeros = {n: jnp.zeros(s, jnp.float32) for n, s in self.model.shapes.items()}
        start = (jnp.float32(0), laid_out(zeros, self.specs.gradients))

        def add(total: Any, part: Any) -> tuple[Any, None]:
            loss, grads = gradient(in_step, *part)
            return jax.tree.map(jnp.add, total, (loss, laid_out(grads, self.specs.gradients))), None

        loss, grads = jax.lax.scan(add, start, parts)[0]
        return loss, grads

    def update(
        self, state: TrainState, grads: Params, finite: jax.Array
    ) -> tuple[Params, optax.OptState]:
        """Take the optimizer's step where its state is stored; none if gradients are not `finite`.

        The parameters then return to their shardings at rest.
        """

        def apply(
            params: Params, opt_state: optax.OptState, grads: Params
        ) -> tuple[Params, optax.OptState]:
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        opt_specs = optimizer_specs(self.model, self.optimizer, self.specs.updates)
        apply = jax.sharding.auto_axes(apply, out_sharding=(self.specs.updates, opt_specs))
        before = (laid_out(state.params, self.specs.updates), state.opt_state)
        after = apply(*before, grads)
        params, opt_state = select(finite, after, before)
        return laid_out(params, self.specs.params), opt_state

    def figures(
        self, before: TrainState, after: TrainState, loss: jax.Array, norm: jax.Array
    ) -> Metrics:
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "lr": self.rate(before.updates),
            "skipped": after.skipped,
            "streak": after.streak,
        }
        if self.cfg.precision.loss_scale is not None:
            metrics["loss_scale"] = before.scale.factor
        if self.cfg.log.param_norm:
            metrics["param_norm"] = global_norm(before.params)
        return metrics


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Sums over a batch of evaluation: the loss of all tokens, and their weight."""

    model: Model

    def __call__(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        def add(total: Any, part: Batch) -> tuple[Any, None]:
            loss = self.model.loss_sum(params, part.inputs, part.labels, part.weights)
            return total + loss, None

        with self.model.matmuls():
            total, _ = jax.lax.scan(add, jnp.float32(0), rounds(batch, self.model.layout))
        return total, jnp.sum(batch.weights)


def build_step(
    cfg: Config, model: Model, optimizer: optax.GradientTransformation, rules: Rules
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Build the compiled step. It takes the old state's memory for the new one."""
    specs, rate = param_specs(model, rules), build_schedule(cfg.schedule)
    step = Step(cfg, model, optimizer, rules, specs, rate)
    return jax.jit(step, donate_argnums=0)


def rounds(tree: Any, layout: Layout) -> Any:
    """Cut [A, B, *] into [R, M, B, *]: M = 1 at a time, or all A at once for a pipeline."""

    def cut(x: jax.Array) -> jax.Array:
        return x[:, None] if layout.pipeline is None else x[None]

    return jax.tree.map(cut, tree)


def replica_scale(cfg: Config) -> float:
    """Return by how much more float16 gradients are scaled for the replicas of the model.

    DeepSpeed averages over the replicas only after the backward pass. The factor is the largest
    power of two that does not exceed their number, by which multiplying rounds nothing.
    """
    if cfg.precision.loss_scale is None:
        return 1.0
    dp = cfg.batch.global_size // (cfg.batch.micro * cfg.batch.accumulation)
    return 2.0 ** (dp.bit_length() - 1)


def drops(cfg: Config) -> bool:
    return cfg.model.hidden_dropout > 0 or cfg.model.attention.dropout > 0


def laid_out(tree: Params, specs: Specs) -> Params:
    return {name: jax.reshard(x, specs[name]) for name, x in tree.items()}


def global_norm(tree: Params) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in tree.values()))


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
