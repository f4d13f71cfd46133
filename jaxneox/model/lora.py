"""LoRA: what a matrix of low rank adds to the product with a matrix that is not trained.

`y = x W + s (x A) B` with `s = alpha / rank` (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
Language Models") or, by default, `alpha / sqrt(rank)`, whose size does not depend on the rank
(Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA").
"""
# B batch, T length, X what A reads, R rank, Y what B writes

import math
from typing import get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.layer_schema import LoraTarget
from jaxneox.config.schema import LoraConfig
from jaxneox.model.dropout import Noise, keep_mask
from jaxneox.model.low_rank import low_rank, low_rank_derived
from jaxneox.model.param import param, zeros
from jaxneox.model.product import is_derived, matrix

TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)

PATTERN = "layers.*_lora.*"
"""Fits the names of all these matrices, and no other's."""


class Lora(nnx.Module):
    """The matrices A and B beside one matrix of a layer, and their scale.

    B begins at zero: the model computes what it did without them.
    """

    def __init__(
        self,
        cfg: LoraConfig,
        place: int,
        rngs: nnx.Rngs,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        **sizes: int,
    ):
        """Declare both.

        Args:
            cfg: rank, scale and dropout.
            place: a number of its own, on which its dropout masks depend.
            rngs: the source of random keys.
            reads: the logical axes that the matrix reads.
            writes: those that it writes.
            sizes: the length of each of its axes, in this order.
        """
        self.reads, self.cfg, self.place = len(reads), cfg, place
        inner = dict(list(sizes.items())[: self.reads])
        outer = dict(list(sizes.items())[self.reads :])
        # the letter r, since R has another meaning among an attention's sizes
        self.a = param(rngs, (*reads, "rank"), _uniform, reads=self.reads, **inner, r=cfg.rank)
        self.b = param(rngs, ("rank", *writes), zeros, r=cfg.rank, **outer)

    def __call__(
        self, x_BTX: jax.Array, out: PartitionSpec, noise: Noise | None = None
    ) -> jax.Array:
        """Compute s (x A) B, [B, T, Y].

        Args:
            x_BTX: what the matrix reads.
            out: the sharding of the result, as of the product with the matrix.
            noise: the source of the dropout mask of x; None drops nothing.
        """
        a_XR, b_RY = matrix(self.a[...], rows=self.reads), matrix(self.b[...], rows=1)
        a_XR *= self.cfg.scale
        if is_derived():
            return low_rank_derived(x_BTX, a_XR, b_RY, self._factors(x_BTX, noise), out)
        return low_rank(x_BTX, a_XR, b_RY, self._factors(x_BTX, noise), out)

    def _factors(self, x_BTX: jax.Array, noise: Noise | None) -> jax.Array | None:
        """Make what dropout multiplies x with, split as it is: 0, or 1 over what stays of it."""
        rate = self.cfg.dropout
        if noise is None or rate == 0.0:
            return None
        keep_BTX = keep_mask(x_BTX, rate, noise.at(self.place))
        split = PartitionSpec(*jax.typeof(x_BTX).sharding.spec.partitions)
        return jax.reshard(keep_BTX, split).astype(x_BTX.dtype) / (1 - rate)


def lora(
    cfg: LoraConfig | None,
    target: LoraTarget,
    rngs: nnx.Rngs,
    reads: tuple[str, ...],
    writes: tuple[str, ...],
    **sizes: int,
) -> Lora | None:
    """Declare the matrices beside a matrix if it is among the targets, see `Lora`."""
    if cfg is None or target not in cfg.targets:
        return None
    return Lora(cfg, TARGETS.index(target), rngs, reads, writes, **sizes)


def _uniform(key: jax.Array, shape: tuple[int, ...], reads: int) -> jax.Array:
    """Draw A as PEFT does: uniformly within 1 / sqrt(what it reads)."""
    bound = 1 / math.sqrt(math.prod(shape[:reads]))
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
