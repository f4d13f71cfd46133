"""The feed-forward branch, plain or gated, split over devices by its inner width."""
# B batch, T length, D hidden, F inner width

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.layer_schema import Activation
from jaxneox.config.schema import ModelConfig
from jaxneox.model.context import Context
from jaxneox.model.dropout import Noise
from jaxneox.model.lora import Lora, lora
from jaxneox.model.param import initializer, param, zeros
from jaxneox.model.product import columns_of, into, out_of


def gelu_erf(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Compute the tanh form of GELU with NeoX's constant for sqrt(2 / pi) (`bias-gelu-fusion`)."""
    return x * 0.5 * (1.0 + jnp.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


def mish(x: jax.Array) -> jax.Array:
    return x * jnp.tanh(jax.nn.softplus(x))


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "mish": mish,
    "softsign": jax.nn.soft_sign,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


class Mlp(nnx.Module):
    """`down(activation(up(x)))`, or gated `down(activation(gate(x)) * up(x))`."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        m, D, F = cfg.mlp, cfg.hidden_size, cfg.mlp.size
        init, init_out = initializer(cfg.init.method, cfg), initializer(cfg.init.output_method, cfg)
        inward, outward = (("embed",), ("mlp",)), (("mlp",), ("embed",))
        self.up = param(rngs, ("embed", "mlp"), init, D=D, F=F)
        self.up_lora = lora(cfg.lora, "up", rngs, *inward, D=D, F=F)
        self.up_bias = param(rngs, ("mlp",), zeros, F=F) if m.bias else None
        self.gate = param(rngs, ("embed", "mlp"), init, D=D, F=F) if m.gated else None
        gate_lora = lora(cfg.lora, "gate", rngs, *inward, D=D, F=F) if m.gated else None
        self.gate_lora = gate_lora
        self.gate_bias = param(rngs, ("mlp",), zeros, F=F) if m.gated and m.bias else None
        self.down = param(rngs, ("mlp", "embed"), init_out, F=F, D=D)
        self.down_lora = lora(cfg.lora, "down", rngs, *outward, F=F, D=D)
        self.down_bias = param(rngs, ("embed",), zeros, D=D) if m.bias else None
        self.activation = jax.checkpoint(ACTIVATIONS[m.activation], prevent_cse=False)

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Compute [B, T, D] without the output bias, a partial sum over the inner width."""
        noise = context.noise
        up_BTF = _affine(x_BTD, self.up, self.up_bias, self.up_lora, noise)
        if self.gate is None:
            inner_BTF = self.activation(up_BTF)
        else:
            gate_BTF = _affine(x_BTD, self.gate, self.gate_bias, self.gate_lora, noise)
            inner_BTF = self.activation(gate_BTF) * up_BTF
        partial = context.layout.partial("batch", "length", "embed", over="mlp")
        y_BTD = out_of(inner_BTF, self.down[...], partial)
        if self.down_lora is None:
            return y_BTD
        return y_BTD + self.down_lora(inner_BTF, partial, noise)


def _affine(
    x_BTD: jax.Array,
    weight: nnx.Param,
    bias: nnx.Param | None,
    lora: Lora | None,
    noise: Noise | None,
) -> jax.Array:
    w_DF = weight[...]
    y_BTF = into(x_BTD, w_DF)
    if lora is not None:
        y_BTF += lora(x_BTD, columns_of(x_BTD, w_DF), noise)
    return y_BTF if bias is None else y_BTF + bias[...][None, None]
