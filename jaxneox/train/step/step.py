"""One step of training, compiled as a whole for any mesh."""
# A accumulation steps, M micro-batches of one round, B sequences

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxneox.config.schema import Config
from jaxneox.model import Noise, Params
from jaxneox.objectives import GIVEN_WEIGHTS, WEIGHTS, Batch, PreparedObjective, Sums, rounds
from jaxneox.optim.schedule import build_schedule
from jaxneox.parallel.compiler_options import jit_on
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.measures import measures
from jaxneox.train.step.noise_scale import NoiseScale, with_step
from jaxneox.train.step.offload import to_device, to_host
from jaxneox.train.step.scaler import next_scale
from jaxneox.train.step.state import (
    ParamSpecs,
    Specs,
    TrainState,
    frozen,
    optimizer_specs,
    param_specs,
    trained,
)

Metrics = dict[str, jax.Array]
LossAndFigures = tuple[jax.Array, Sums]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of training, as its plan says. It knows nothing of what is trained for."""

    plan: TrainPlan

    @cached_property
    def specs(self) -> ParamSpecs:
        """The shardings of parameters and of arrays like them."""
        return param_specs(self.plan.model, self.plan.rules, self.plan.objective.typed)

    @cached_property
    def rate(self) -> optax.Schedule:
        """The learning rate by the number of updates."""
        return build_schedule(self.plan.cfg.schedule)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Compute the global batch's mean gradient, one update (if it is finite), and the figures.

        The weights are divided by their sum beforehand, so that sums over any split of the batch
        are the mean over all of it. A batch without any weight has no mean: it is skipped.
        """
        cfg = self.plan.cfg
        with self.plan.model.matmuls():
            batch, of_batch = prepared(self.plan, state.params, state.reference, batch)
        factor = state.scale.factor * replica_scale(cfg)
        share = batch[WEIGHTS] * (factor / jnp.sum(batch[WEIGHTS]))
        given = {} if self.plan.objective.fields else {GIVEN_WEIGHTS: batch[WEIGHTS]}
        with self.plan.model.matmuls():
            sums, grads = self.gradients(state, batch | given | {WEIGHTS: share})
        (loss, figures), grads = jax.tree.map(lambda x: x / factor, (sums, grads))
        norm = global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        params, opt_state = self.update(state, grads, finite)
        after = TrainState(
            params=params,
            opt_state=opt_state,
            scale=next_scale(state.scale, finite, cfg.precision.loss_scale),
            step=state.step + 1,
            skipped=state.skipped + ~finite,
            streak=jnp.where(finite, 0, state.streak + 1),
            reference=state.reference,
            noise_scale=self.noise_scale(state, grads, finite),
        )
        figures = figures | greatest_load(figures)
        figures = self.figures(state, after, loss, norm) | figures | of_batch
        return after, figures | measures(self.plan, after, grads)

    def noise_scale(self, state: TrainState, grads: Params, finite: jax.Array) -> NoiseScale | None:
        """Add the step's gradients to those by which their noise is estimated."""
        cfg = self.plan.cfg
        if state.noise_scale is None or cfg.log.noise_scale is None:
            return None
        return with_step(
            state.noise_scale,
            grads,
            finite,
            batch=cfg.batch.global_size,
            steps=cfg.log.noise_scale,
            last_alone=cfg.neox_compat,
        )

    def gradients(self, state: TrainState, batch: Batch) -> tuple[LossAndFigures, Params]:
        """Sum loss, figures and gradients over the accumulation steps, in float32."""
        rows_AB = self.row_numbers(batch)
        key = jax.random.fold_in(jax.random.key(self.plan.cfg.train.seed + 1), state.step)
        parts = rounds((batch, rows_AB), self.plan.model.layout)
        of_round = partial(self.sums, key, state.reference)
        gradient = jax.value_and_grad(of_round, has_aux=True)
        if jax.tree.leaves(parts)[0].shape[0] == 1:  # nothing to be added up
            part = jax.tree.map(lambda x: x[0], parts)
            params = trained(self.plan, state.params), frozen(self.plan, state.params)
            sums, grads = gradient(*params, *part)
        else:
            sums, grads = self.sum_over_rounds(gradient, state.params, parts)
        return sums, laid_out(grads, self.specs.updates)

    def row_numbers(self, batch: Batch) -> jax.Array:
        """Number the rows of the global batch, int32 [A, B], laid out as the batch is."""
        shape = batch[WEIGHTS].shape[:2]
        rows = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)
        return jax.reshard(rows.reshape(shape), self.plan.rules.activation(None, "batch"))

    def sums(
        self,
        key: jax.Array,
        reference: Params | None,
        learning: Params,
        resting: Params,
        part: Batch,
        rows_MB: jax.Array,
    ) -> LossAndFigures:
        """Sum weighted loss and figures of one round, with the dropout of the step's random key."""
        noise = Noise(key, rows_MB) if is_random(self.plan.cfg) else None
        models = self.plan.models(learning | resting, reference)
        return self.plan.objective.sums(models, part, noise)

    def sum_over_rounds(
        self, gradient: Callable[..., Any], params: Params, parts: Any
    ) -> tuple[LossAndFigures, Params]:
        """Add up what `gradient` returns for each of the rounds, which follow one another."""
        in_step = laid_out(params, self.specs.in_step)
        learning, resting = trained(self.plan, in_step), frozen(self.plan, in_step)
        shapes = trained(self.plan, self.plan.model.shapes)
        zeros = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
        start = (jnp.float32(0), laid_out(zeros, self.specs.gradients))

        def add(total: Any, part: Any) -> tuple[Any, Sums]:
            (loss, figures), grads = gradient(learning, resting, *part)
            more = loss, laid_out(grads, self.specs.gradients)
            return jax.tree.map(jnp.add, total, more), figures

        (loss, grads), figures = jax.lax.scan(add, start, parts)
        return (loss, jax.tree.map(over_rounds, figures)), grads

    def update(
        self, state: TrainState, grads: Params, finite: jax.Array
    ) -> tuple[Params, optax.OptState]:
        """Take the optimizer's step where its state is stored; none if gradients are not `finite`.

        The parameters then return to their shardings at rest. Those that are not trained never
        leave them.
        """

        def apply(
            params: Params, opt_state: optax.OptState, grads: Params
        ) -> tuple[Params, optax.OptState]:
            updates, opt_state = self.plan.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        specs = trained(self.plan, self.specs.updates)
        opt_specs = optimizer_specs(self.plan, self.specs.updates)
        apply = jax.sharding.auto_axes(apply, out_sharding=(specs, opt_specs))
        learning = trained(self.plan, state.params)
        opt_state = to_device(self.plan, state.opt_state)
        before = (laid_out(learning, self.specs.updates), opt_state)
        after = apply(*before, grads)
        params, opt_state = select(finite, after, before)
        resting = frozen(self.plan, state.params)
        return laid_out(params, self.specs.params) | resting, to_host(self.plan, opt_state)

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
        if self.plan.cfg.precision.loss_scale is not None:
            metrics["loss_scale"] = before.scale.factor
        if self.plan.cfg.log.param_norm:
            metrics["param_norm"] = global_norm(before.params)
        return metrics


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Sums over a batch of evaluation, without dropout: loss and figures, and their weight.

    What the objective says of the batch as a whole is returned as it is.
    """

    plan: TrainPlan

    def __call__(
        self, params: Params, reference: Params | None, batch: Batch
    ) -> tuple[LossAndFigures, jax.Array, Sums]:
        model, objective = self.plan.model, self.plan.objective
        models = self.plan.models(params, reference)

        def add(total: jax.Array, part: Batch) -> tuple[jax.Array, Sums]:
            loss, figures = objective.sums(models, part, None)
            return total + loss, figures

        with model.matmuls():
            batch, of_batch = prepared(self.plan, params, reference, batch)
            parts = rounds(batch, model.layout)
            loss, figures = jax.lax.scan(add, jnp.float32(0), parts)
        return (loss, jax.tree.map(over_rounds, figures)), jnp.sum(batch[WEIGHTS]), of_batch


def prepared(
    plan: TrainPlan, params: Params, reference: Params | None, batch: Batch
) -> tuple[Batch, Sums]:
    """Let the objective complete a batch, if it does, and give figures of it as a whole.

    The step's own passes begin when that is done: two at a time would need twice the memory, and on
    CPUs the collectives of one may wait for those of the other for ever.
    """
    if not isinstance(plan.objective, PreparedObjective):
        return batch, {}
    completed = plan.objective.prepare(plan.models(params, reference), batch)
    return jax.lax.optimization_barrier(completed)


def build_step(
    plan: TrainPlan, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Build the compiled step. It takes the old state's memory for the new one."""
    return jit_on(mesh, Step(plan), donate_argnums=0)


def replica_scale(cfg: Config) -> float:
    """Return by how much more float16 gradients are scaled for the replicas of the model.

    DeepSpeed averages over the replicas only after the backward pass. The factor is the largest
    power of two that does not exceed their number, by which multiplying rounds nothing.
    """
    if cfg.precision.loss_scale is None:
        return 1.0
    dp = cfg.batch.global_size // (cfg.batch.micro * cfg.batch.accumulation)
    return 2.0 ** (dp.bit_length() - 1)


def greatest_load(figures: Sums) -> Sums:
    """Return how many times its even share the fullest expert of all layers has, if there are any.

    The layers' own figure is each expert's share of the choices, [layers, experts].
    """
    if (load := figures.get("experts_load")) is None:
        return {}
    return {"experts_max_load": jnp.max(load) * load.shape[1]}


def over_rounds(figures_A: jax.Array) -> jax.Array:
    """Add up a figure, or an array of them, over the rounds."""
    return jnp.sum(figures_A, axis=0)


def is_random(cfg: Config) -> bool:
    """Tell whether a step is another function than evaluation: by dropout, or by experts."""
    model = cfg.model
    if model.experts is not None:
        return True
    rates = (model.hidden_dropout, model.attention.dropout, model.lora.dropout if model.lora else 0)
    return max(rates) > 0


def laid_out(tree: Params, specs: Specs) -> Params:
    return {name: jax.reshard(x, specs[name]) for name, x in tree.items()}


def global_norm(tree: Params) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in tree.values()))


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
