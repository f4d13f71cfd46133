"""The whole model as one function of a flat dictionary of parameters."""
# B batch, T length, D hidden, V padded vocabulary

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.schema import Dtype, ModelConfig, RematConfig
from jaxneox.model.block import Block
from jaxneox.model.dropout import Noise, dropout
from jaxneox.model.layout import Layout
from jaxneox.model.loss import Head, Unembedding, chunk_length, loss_sum, project
from jaxneox.model.norms import norm
from jaxneox.model.param import initializer, param, xavier_normal, zeros
from jaxneox.model.positions import RelativeBias, sinusoids

Params = dict[str, jax.Array]
"""Dotted names to arrays; the parameters of all layers are stacked on a leading axis."""

NO_REMAT = RematConfig("none")

POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Embed(nnx.Module):
    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        init, D = initializer(cfg.init.method, cfg), cfg.hidden_size
        self.tokens = param(rngs, ("vocab", "embed"), init, V=cfg.vocab_size, D=D)
        kind, rows = cfg.positions.kind, cfg.positions.max_positions
        learned = kind == "learned"
        self.positions = param(rngs, ("positions", "embed"), init, P=rows, D=D) if learned else None
        sizes = {"K": cfg.attention.kv_heads, "G": cfg.attention.group}
        buckets, axes = cfg.positions.rpe_buckets, ("buckets", "kv_heads", "group")
        rpe = kind == "rpe"
        self.rpe = param(rngs, axes, xavier_normal, buckets=buckets, **sizes) if rpe else None


class NeoX(nnx.Module):
    """Declares every parameter; holds no mathematics but that of its parts."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.embed = Embed(cfg, rngs)
        self.layers = stack(lambda key: Block(cfg, nnx.Rngs(key)), cfg.num_layers, rngs)
        self.final_norm = norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        self.unembed = Unembed(cfg, rngs)


class Unembed(nnx.Module):
    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        init, D, V = initializer(cfg.init.method, cfg), cfg.hidden_size, cfg.vocab_size
        tied = cfg.tied_embedding
        self.weight = None if tied else param(rngs, ("embed", "vocab"), init, D=D, V=V)
        self.bias = param(rngs, ("vocab",), zeros, V=V) if cfg.logit_bias else None


def stack(make, count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` modules as one whose parameters have a leading axis `layers`."""
    keys = jax.random.split(rngs.params(), count)
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(jax.random.key(0))))
    state = jax.vmap(lambda key: nnx.state(make(key)))(keys)
    for _, variable in nnx.to_flat_state(state):
        variable.set_metadata(axes=("layers", *variable.get_metadata("axes")))
    return nnx.merge(graph, state)


@dataclass(frozen=True)
class Model:
    """The functions of one configuration, laid out for one mesh. Holds no arrays."""

    cfg: ModelConfig
    layout: Layout
    compute: Dtype = "float32"
    remat: RematConfig = NO_REMAT
    z_loss: float = 0.0
    loss_fp32: bool = True

    @cached_property
    def _declared(self) -> NeoX:
        return nnx.eval_shape(lambda: NeoX(self.cfg, nnx.Rngs(0)))

    @cached_property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The logical axes of every parameter by name."""
        return {name: p.get_metadata("axes") for name, p in _flat(self._declared).items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: p.shape for name, p in _flat(self._declared).items()}

    def init(self, key: jax.Array) -> Params:
        """The same float32 numbers on every mesh."""
        return {name: p[...] for name, p in _flat(NeoX(self.cfg, nnx.Rngs(key))).items()}

    def logits(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """int [B, T] -> float32 [B, T, V], without dropout."""
        with self.matmuls():
            model = self._module(params)
            x_BTD = self._hidden(model, params, tokens_BT, None)
            return project(x_BTD, self._unembedding(model), jnp.dtype("float32"))

    def loss_sum(
        self,
        params: Params,
        tokens_BT: jax.Array,
        labels_BT: jax.Array,
        weights_BT: jax.Array,
        noise: Noise | None = None,
    ) -> jax.Array:
        """The weighted sum of the tokens' losses, float32 []; the caller divides."""
        batch, length = tokens_BT.shape
        logits = batch * self.cfg.vocab_size // self.layout.parts("batch", "vocab")
        chunk = chunk_length(length, logits)
        dtype = jnp.dtype("float32" if self.loss_fp32 else self.compute)
        head = Head(self.layout, self.z_loss, chunk, dtype)
        model = self._module(params)
        x_BTD = self._hidden(model, params, tokens_BT, noise)
        return loss_sum(x_BTD, self._unembedding(model), labels_BT, weights_BT, head)

    def matmuls(self) -> AbstractContextManager[Any]:
        """Around whatever is traced: float32 means float32, also where a device would round the
        factors of its products (TF32, bfloat16 passes)."""
        return jax.default_matmul_precision("highest" if self.compute == "float32" else "default")

    def _hidden(
        self, model: NeoX, params: Params, tokens_BT: jax.Array, noise: Noise | None
    ) -> jax.Array:
        """-> [B, T, D] after the final norm, whole along the length."""
        positions_T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)
        x_BTD = self._embed(model.embed, tokens_BT, positions_T)
        x_BTD = dropout(x_BTD, self.cfg.hidden_dropout, noise and noise.at(0))
        bias = self._score_bias(model.embed, positions_T)
        x_BTD = self._run_layers(params, x_BTD, positions_T, bias, noise)
        whole = self.layout.activation("batch", "length", "embed")
        return jax.reshard(model.final_norm(x_BTD), whole)

    def _embed(self, embed: Embed, tokens_BT: jax.Array, positions_T: jax.Array) -> jax.Array:
        """Looked up in float32: the gradients of a frequent token are many terms of one sum."""
        spec = self.layout.activation("batch", "length", "embed")
        x_BTD = embed.tokens[...].at[tokens_BT].get(out_sharding=spec)
        if embed.positions is not None:
            rows = positions_T + self.cfg.positions.offset
            x_BTD = x_BTD + embed.positions[...][rows][None]
        elif self.cfg.positions.kind == "sinusoidal":
            x_BTD = x_BTD + sinusoids(positions_T, self.cfg.hidden_size)[None]
        stream = self.layout.activation("batch", "stream", "embed")
        return jax.reshard(x_BTD.astype(self.compute), stream)

    def _score_bias(self, embed: Embed, positions_T: jax.Array) -> jax.Array | None:
        if embed.rpe is None:
            return None
        relative = RelativeBias(self.cfg.positions, self.cfg.attention.head_dim)
        return relative(embed.rpe[...], positions_T, positions_T)

    def _run_layers(self, params: Params, x_BTD, positions_T, bias, noise: Noise | None):
        graph = nnx.graphdef(self._declared.layers)
        layers = {name: w for name, w in params.items() if name.startswith("layers.")}

        def layer(x_BTD, indexed):
            index, weights = indexed
            cast = {name: w.astype(self.compute) for name, w in weights.items()}
            ready = self._gathered(cast).items()
            block = _merge(graph, {name.removeprefix("layers."): w for name, w in ready})
            inner = noise and noise.at(1 + index)
            return block(x_BTD, positions_T, bias, inner, self.layout), None

        if self.remat.policy != "none":
            layer = jax.checkpoint(layer, policy=POLICIES[self.remat.policy], prevent_cse=False)
        index = jnp.arange(self.cfg.num_layers, dtype=jnp.int32)
        return jax.lax.scan(layer, x_BTD, (index, layers))[0]

    def _module(self, params: Params) -> NeoX:
        """The model with its weights outside the layers in place, in float32."""
        outer = {name: w for name, w in params.items() if not name.startswith("layers.")}
        return _merge(nnx.graphdef(self._declared), params | self._gathered(outer))

    def _unembedding(self, model: NeoX) -> Unembedding:
        """A tied model's weight is the transpose of its one embedding leaf."""
        weight, bias = model.unembed.weight, model.unembed.bias
        weight_DV = model.embed.tokens[...].T if weight is None else weight[...]
        return Unembedding(weight_DV.astype(self.compute), None if bias is None else bias[...])

    def _gathered(self, weights: Params) -> Params:
        """Whole over the devices that only store a part."""

        def gather(name: str, w: jax.Array) -> jax.Array:
            axes = self.axes[name]
            return jax.reshard(w, self.layout.weight(*axes[len(axes) - w.ndim :]))

        return {name: gather(name, w) for name, w in weights.items()}


def _flat(module: nnx.Module) -> dict[str, nnx.Param]:
    return {".".join(map(str, path)): p for path, p in nnx.to_flat_state(nnx.state(module))}


def _merge(graph: Any, weights: Params) -> Any:
    flat = [(tuple(name.split(".")), nnx.Param(w)) for name, w in sorted(weights.items())]
    return nnx.merge(graph, nnx.from_flat_state(flat))
