"""The gradient noise scale: about how large a batch is worth its cost.

Source: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1. With the
squared norm of gradients of a small batch B and of a large one b,

    |G|^2  =  (b |G_b|^2 - B |G_B|^2) / (b - B)
    tr(S)  =  (|G_B|^2 - |G_b|^2) / (1/B - 1/b)

are estimates without bias of the true gradient's squared norm and of the trace of the covariance of
single examples' gradients; their ratio tr(S) / |G|^2 is the noise scale, in sequences. As each of
them is noisy, running means of both are divided: m <- 0.99 m + 0.01 x from 0 on, divided by
1 - 0.99^k after k estimates, which takes away that they began at 0.

The small batch is that of a step, the large one that of n steps (`gradient_noise_scale_n_batches`),
as in NeoX: so the figures do not depend on how a batch is cut or on the mesh. The large gradient is
the mean of n steps' gradients, which is one copy of the gradients more in memory; |G_B|^2 is the
mean over the n steps. NeoX takes the last of them alone (`neox_compat`), which is noisier, and
counts steps as k, which is wrong for both running means, and not for their ratio.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model import Params

KEPT = 0.99
"""By this the past of a running mean fades with each estimate."""


class NoiseScale(NamedTuple):
    """What is known of the noise, and the gradients since the last estimate.

    The names of its fields are those in checkpoints.

    Attributes:
        total: the sum of gradients since then, float32 by name.
        squares: the sum of their squared norms, float32 []; with NeoX's rule the last one.
        seen: the steps since then, int32 [].
        estimates: how often there was one, int32 [].
        gradient: the running mean of |G|^2, float32 [], not yet divided.
        variance: the same of tr(S).
    """

    total: Params
    squares: jax.Array
    seen: jax.Array
    estimates: jax.Array
    gradient: jax.Array
    variance: jax.Array


def no_estimate(shapes: dict[str, tuple[int, ...]]) -> NoiseScale:
    """Return the state before the first step, for gradients of these shapes."""
    total = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    zeros = [jnp.zeros((), dtype) for dtype in ("float32", "int32", "int32", "float32", "float32")]
    return NoiseScale(total, *zeros)


def with_step(
    noise: NoiseScale,
    grads: Params,
    finite: jax.Array,
    *,
    batch: int,
    steps: int,
    last_alone: bool,
) -> NoiseScale:
    """Add a step's gradients, and estimate where enough steps were seen.

    Args:
        noise: until this step.
        grads: the mean gradients of the step's batch, by name.
        finite: whether they are; a step whose gradients are not does not count.
        batch: B, its sequences.
        steps: n, of an estimate.
        last_alone: whether |G_B|^2 is the last step's, as in NeoX, not the mean over n.
    """
    square = jnp.where(finite, _square(grads), 0.0)
    total = {name: noise.total[name] + jnp.where(finite, g, 0.0) for name, g in grads.items()}
    seen = noise.seen + finite
    before = jnp.where(finite, 0.0, noise.squares) if last_alone else noise.squares
    squares = before + square
    due = finite & (seen == steps)
    gradient, variance = estimated(
        _square(total) / steps**2, squares if last_alone else squares / steps, batch, steps
    )

    def mean(past: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(due, KEPT * past + (1 - KEPT) * new, past)

    return NoiseScale(
        total={name: jnp.where(due, 0.0, g) for name, g in total.items()},
        squares=jnp.where(due, 0.0, squares),
        seen=jnp.where(due, 0, seen),
        estimates=noise.estimates + due,
        gradient=mean(noise.gradient, gradient),
        variance=mean(noise.variance, variance),
    )


def estimated(
    big: jax.Array, small: jax.Array, batch: int, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Estimate |G|^2 and tr(S) by the squared norms of gradients of n B and of B sequences."""
    large = batch * steps
    gradient = (large * big - batch * small) / (large - batch)
    return gradient, (small - big) / (1 / batch - 1 / large)


def noise_figures(noise: NoiseScale) -> dict[str, jax.Array]:
    """Return the noise scale in sequences, and the two of which it is made; NaN before the first.

    They are single values, float32 [].
    """
    counted = 1 - jnp.float32(KEPT) ** noise.estimates
    known = noise.estimates > 0
    gradient, variance = (
        jnp.where(known, x / jnp.where(known, counted, 1.0), jnp.nan)
        for x in (noise.gradient, noise.variance)
    )
    return {
        "noise_scale": variance / gradient,
        "noise_scale_gradient": gradient,
        "noise_scale_variance": variance,
    }


def _square(tree: Params) -> jax.Array:
    return jnp.asarray(sum(jnp.sum(jnp.square(x)) for x in tree.values()))
