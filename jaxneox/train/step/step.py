"""One step of training, compiled as a whole for any mesh."""
# A accumulation steps, B sequences of one of them, T length

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class Step:
    """One step of training, and what its compiled function needs to know."""

    cfg: Config
    model: Model
    optimizer: optax.GradientTransformation
    rules: Rules
    at: ParamSpecs
    rate: optax.Schedule

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Compute the global batch's mean gradient, one update (if it is finite), and the figures.

        The weights are divided by their sum beforehand, so that sums over any split of the batch
        are the mean over all of it. A batch without any weight has no mean: it is skipped.
        """
        factor = state.scale.factor * replicas(self.cfg)
        share = batch.weights * (factor / jnp.sum(batch.weights))
        with self.model.matmuls():
            loss, grads = self.gradients(state, Batch(batch.tokens, share))
        loss, grads = jax.tree.map(lambda x: x / factor, (loss, grads))
        norm = global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        params, opt_state = self.update(state, grads, finite)
        after = TrainState(
            params,
            opt_state,
            next_scale(state.scale, finite, self.cfg.precision.loss_scale),
            state.step + 1,
            state.skipped + ~finite,
            jnp.where(finite, 0, state.streak + 1),
        )
        return after, self.figures(state, after, loss, norm)

    def gradients(self, state: TrainState, batch: Batch) -> tuple[jax.Array, Params]:
        """Sum the loss and the gradients over the accumulation steps, in float32."""
        rows = jnp.arange(batch.tokens.shape[0] * batch.tokens.shape[1], dtype=jnp.int32)
        rows_AB = jax.reshard(
            rows.reshape(batch.tokens.shape[:2]), self.rules.activation(None, "batch")
        )
        key = jax.random.fold_in(jax.random.key(self.cfg.train.seed + 1), state.step)

        def one(params: Params, part: Batch, rows_MB: jax.Array) -> jax.Array:
            noise = Noise(key, rows_MB) if drops(self.cfg) else None
            inputs, labels = part.tokens[..., :-1], part.tokens[..., 1:]
            return self.model.loss_sum(params, inputs, labels, part.weights, noise)

        run = jax.value_and_grad(one)
        parts = rounds((batch, rows_AB), self.model.layout)
        if jax.tree.leaves(parts)[0].shape[0] == 1:  # nothing to be added up
            loss, grads = run(state.params, *jax.tree.map(lambda x: x[0], parts))
            return loss, lay(grads, self.at.updates)
        in_step = lay(state.params, self.at.in_step)
        nothing = {n: jnp.zeros(s, jnp.float32) for n, s in self.model.shapes.items()}
        start = (jnp.float32(0), lay(nothing, self.at.gradients))

        def add(total: Any, part: Any) -> tuple[Any, None]:
            loss, grads = run(in_step, *part)
            return jax.tree.map(jnp.add, total, (loss, lay(grads, self.at.gradients))), None

        loss, grads = jax.lax.scan(add, start, parts)[0]
        return loss, lay(grads, self.at.updates)

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

        specs = optimizer_specs(self.model, self.optimizer, self.at.updates)
        apply = jax.sharding.auto_axes(apply, out_sharding=(self.at.updates, specs))
        params = lay(state.params, self.at.updates)
        after = apply(params, state.opt_state, grads)
        params, opt_state = choose(finite, after, (params, state.opt_state))
        return lay(params, self.at.params), opt_state

    def figures(
        self, before: TrainState, after: TrainState, loss: jax.Array, norm: jax.Array
    ) -> Metrics:
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "lr": self.rate(before.step - before.skipped),
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
            inputs, labels = part.tokens[..., :-1], part.tokens[..., 1:]
            return total + self.model.loss_sum(params, inputs, labels, part.weights), None

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


def replicas(cfg: Config) -> float:
    """Return by how much more float16 gradients are scaled.

    DeepSpeed averages over the replicas only after the backward pass. It is the nearest power of
    two below their number, which rounds nothing.
    """
    if cfg.precision.loss_scale is None:
        return 1.0
    dp = cfg.batch.global_size // (cfg.batch.micro * cfg.batch.accumulation)
    return 2.0 ** (dp.bit_length() - 1)


def drops(cfg: Config) -> bool:
    return cfg.model.hidden_dropout > 0 or cfg.model.attention.dropout > 0


def lay(tree: Params, specs: Specs) -> Params:
    return {name: jax.reshard(x, specs[name]) for name, x in tree.items()}


def global_norm(tree: Params) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in tree.values()))


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
