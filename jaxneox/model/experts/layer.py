"""The parameters of a mixture of experts, and the mixture as a branch of a layer."""
# B batch, T length, D hidden, E experts, F inner width of an expert, k choices of a token

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.schema import ExpertsConfig, ModelConfig
from jaxneox.model.context import Context, Sums
from jaxneox.model.experts.balance import balance_loss, chosen, z_loss
from jaxneox.model.experts.capacity import capacity, within
from jaxneox.model.experts.device import MixtureSettings
from jaxneox.model.experts.mixture import Matrices, mixture
from jaxneox.model.experts.router import Router, Routing
from jaxneox.model.mlp import ACTIVATIONS, Mlp
from jaxneox.model.param import Initializer, initializer, param


class Experts(nnx.Module):
    """`sum over a token's k experts e of weight_e * down_e(activation(up_e(x)))`, without biases.

    Gated experts are `down_e(activation(gate_e(x)) * up_e(x))`. Shared experts are an MLP that all
    tokens pass through, added with weight 1.
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        assert cfg.experts is not None
        self.cfg, D, E, F = cfg.experts, cfg.hidden_size, cfg.experts.count, cfg.experts.size
        init, init_out = initializer(cfg.init.method, cfg), initializer(cfg.init.output_method, cfg)
        self.router = Router(cfg, cfg.experts, rngs)
        inward, outward = ("experts", "embed", "mlp"), ("experts", "mlp", "embed")
        gated = self.cfg.gated
        self.up = param(rngs, inward, each(init), E=E, D=D, F=F)
        self.gate = param(rngs, inward, each(init), E=E, D=D, F=F) if gated else None
        self.down = param(rngs, outward, each(init_out), E=E, F=F, D=D)
        self.shared = Mlp(_shared(cfg, cfg.experts), rngs) if self.cfg.shared else None

    def __call__(
        self, x_BTD: jax.Array, gathered_BTD: jax.Array, context: Context
    ) -> tuple[jax.Array, Sums]:
        """Compute the mixture.

        Args:
            x_BTD: what the router reads, laid out as the residual stream.
            gathered_BTD: the same as the experts read it, whole sequences of the devices' length.
            context: what the layers share; noise makes it training.

        Returns:
            [B, T, D], a partial sum over the inner width; and where rows have weights, sums over
            rows by these: `experts_load` [E], each expert's share of a row's choices, and
            `experts_loss`, the losses of balance and of large logits with their coefficients.
        """
        layout, training = context.layout, context.noise is not None
        choice = self.router(x_BTD, context)
        sums = self._sums(choice, context)
        experts_BTk, most = choice.experts, None
        if training and self.cfg.capacity_factor is not None:
            length = experts_BTk.shape[1]
            most = capacity(self.cfg.capacity_factor, length, self.cfg.top_k, self.cfg.count)
            experts_BTk = within(experts_BTk, self.cfg.count, most, layout)
        experts_BTk = jax.reshard(experts_BTk, layout.activation("batch", "length", None))
        feeds = layout.feeds("batch", "length", None, into="mlp")
        weights_BTk = jax.reshard(choice.weights, feeds)
        settings = MixtureSettings(self.cfg.count, ACTIVATIONS[self.cfg.activation], layout, most)
        matrices = Matrices(
            self.up[...], None if self.gate is None else self.gate[...], self.down[...]
        )
        y_BTD = mixture(settings, gathered_BTD, experts_BTk, weights_BTk, matrices)
        if self.shared is not None:
            y_BTD = y_BTD + self.shared(gathered_BTD, context)
        return y_BTD, sums

    def _sums(self, choice: Routing, context: Context) -> Sums:
        """Add up what the router's choices cost, each row by its weight, and their load."""
        if context.row_weights is None:
            return {}
        chosen_BE = chosen(choice.experts, self.cfg.count)
        shares_BE = chosen_BE / jnp.sum(chosen_BE, axis=1, keepdims=True)
        sums = {"experts_load": jnp.sum(shares_BE * context.row_weights[:, None], axis=0)}
        if self.cfg.has_losses:
            loss_B = self.cfg.balance_loss * balance_loss(choice.logits, shares_BE)
            loss_B = loss_B + self.cfg.z_loss * z_loss(choice.logits)
            sums["experts_loss"] = jnp.sum(loss_B * context.row_weights)
        return sums


def each(init: Initializer) -> Initializer:
    """Draw the matrix of each expert as if it stood alone."""

    def draw(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda key: init(key, shape[1:], reads))(keys)

    return draw


def _shared(cfg: ModelConfig, experts: ExpertsConfig) -> ModelConfig:
    """Return the configuration of the MLP that all tokens pass through."""
    mlp = replace(
        cfg.mlp,
        size=experts.shared * experts.size,
        activation=experts.activation,
        gated=experts.gated,
        bias=False,
    )
    return replace(cfg, mlp=mlp, lora=None)
