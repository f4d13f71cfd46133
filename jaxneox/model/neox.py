"""The whole model as one function of a flat dictionary of parameters."""
# M micro-batches (all that pass a pipeline together, else 1), B batch, T length, D hidden,
# V padded vocabulary, k layers

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.schema import Dtype, ModelConfig, RematConfig
from jaxneox.model.block import Block
from jaxneox.model.documents import Documents, Where
from jaxneox.model.dropout import Noise, dropout
from jaxneox.model.embed import Embed
from jaxneox.model.gather import gather
from jaxneox.model.layout import Layout
from jaxneox.model.loss import Head, Unembedding, chunk_length, loss_sum, project
from jaxneox.model.norms import norm
from jaxneox.model.param import initializer, param, zeros
from jaxneox.model.positions import RelativeBias
from jaxneox.model.product import PRODUCT
from jaxneox.model.scores import scores

Params = dict[str, jax.Array]
"""Dotted names to arrays; the parameters of all layers are stacked on a leading axis."""

NO_REMAT = RematConfig("none")


POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}
"""What a layer keeps for its backward pass: nothing but its input, or also its products with
weights."""


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
    documents: Documents | None = None  # of a row of `loss_sum`; None: it is one text

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
        """int [B, T] -> float32 [B, T, V], without dropout; a row is one text."""
        with self.matmuls():
            model = self._module(params)
            x_BTD = self._texts(model, params, tokens_BT)
            return project(x_BTD, self._unembedding(model), jnp.dtype("float32"))

    def scores(
        self, params: Params, tokens_BT: jax.Array, places_BC: jax.Array, labels_BC: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """How likely each label is after the token at its place, and whether it is the likeliest.

        -> log-probabilities over the padded vocabulary, float32 [B, C], and bool [B, C]. Logits are
        made for the C places only; a row is one text.
        """
        with self.matmuls():
            model = self._module(params)
            x_BTD = self._texts(model, params, tokens_BT)
            unembedding = self._unembedding(model)
            return scores(x_BTD, unembedding, places_BC, labels_BC, self.layout)

    def loss_sum(
        self,
        params: Params,
        tokens_MBT: jax.Array,
        labels_MBT: jax.Array,
        weights_MBT: jax.Array,
        noise: Noise | None = None,
    ) -> jax.Array:
        """The weighted sum of the tokens' losses, float32 []; the caller divides.

        Without `noise` nothing is dropped. `documents` are told apart here alone.
        """
        micro, batch, length = tokens_MBT.shape
        spread, layout = self.layout.spread(micro), self.layout
        logits = micro * batch * self.cfg.vocab_size // layout.parts(spread, "batch", "vocab")
        chunk = chunk_length(length // layout.parts("length"), logits)
        dtype = jnp.dtype("float32" if self.loss_fp32 else self.compute)
        head = Head(layout, self.z_loss, chunk, dtype, spread)
        model = self._module(params)
        x_MBTD = self._hidden(model, params, tokens_MBT, self._where(tokens_MBT), noise)
        labels_MBT, weights_MBT = self._laid(labels_MBT), self._laid(weights_MBT)
        return loss_sum(x_MBTD, self._unembedding(model), labels_MBT, weights_MBT, head)

    def matmuls(self) -> AbstractContextManager[Any]:
        """Around whatever is traced: float32 means float32, also where a device would round the
        factors of its products (TF32, bfloat16 passes)."""
        return jax.default_matmul_precision("highest" if self.compute == "float32" else "default")

    def _hidden(
        self,
        model: NeoX,
        params: Params,
        tokens_MBT: jax.Array,
        where: Where,
        noise: Noise | None = None,
    ) -> jax.Array:
        """-> [M, B, T, D] after the final norm, the positions in the layout's order."""
        micro = tokens_MBT.shape[0]
        noise = noise and noise._replace(positions=where.order_T)
        x_MBTD = self._embed(model.embed, self._laid(tokens_MBT), where.counted)
        x_MBTD = dropout(x_MBTD, self.cfg.hidden_dropout, noise and noise.at(0))
        bias = self._score_bias(model.embed, where.order_T)
        x_MBTD = self._run_layers(params, x_MBTD, where, bias, noise)
        spread = self.layout.spread(micro)
        whole = self.layout.activation(spread, "batch", "length", "embed")
        return jax.reshard(model.final_norm(jax.reshard(x_MBTD, self._stream(spread))), whole)

    def _one_text(self, tokens: jax.Array) -> Where:
        """Of rows [*, T]."""
        return Where(jnp.asarray(self.layout.order(tokens.shape[-1])))

    def _where(self, tokens_MBT: jax.Array) -> Where:
        """Counted over whole rows, then laid as their tokens."""
        where = self._one_text(tokens_MBT)
        if self.documents is None:
            return where
        spread = self.layout.spread(tokens_MBT.shape[0])
        whole = self.layout.activation(spread, "batch", None)
        found = self.documents(jax.reshard(tokens_MBT, whole))
        return Where(where.order_T, *jax.tree.map(self._laid, found))

    def _texts(self, model: NeoX, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """-> [B, T, D] after the final norm, of rows that are one text each, the positions in their
        order on every device that has some of them."""
        x_MBTD = self._hidden(model, params, tokens_BT[None], self._one_text(tokens_BT))
        x_BTD = jax.reshard(x_MBTD[0], self.layout.activation("batch", None, "embed"))
        if self.layout.rings is None:
            return x_BTD
        return x_BTD[:, np.argsort(self.layout.order(x_BTD.shape[1]))]

    def _laid(self, x_MBT: jax.Array) -> jax.Array:
        """What belongs to the tokens, in the order and on the devices of their positions."""
        layout, (micro, _, length) = self.layout, x_MBT.shape
        spread = layout.spread(micro)
        x_MBT = jax.reshard(x_MBT, layout.activation(spread, "batch", None))
        if layout.rings is not None:
            x_MBT = x_MBT[:, :, layout.order(length)]
        return jax.reshard(x_MBT, layout.activation(spread, "batch", "length"))

    def _stream(self, micro: str | None) -> PartitionSpec:
        return self.layout.activation(micro, "batch", "stream", "embed")

    def _embed(self, embed: Embed, tokens_MBT: jax.Array, positions: jax.Array) -> jax.Array:
        spread = self.layout.spread(tokens_MBT.shape[0])
        spec = self.layout.activation(spread, "batch", "length", "embed")
        x_MBTD = embed(tokens_MBT, positions, spec)
        return jax.reshard(x_MBTD.astype(self.compute), self._stream(spread))

    def _score_bias(self, embed: Embed, order_T: jax.Array) -> jax.Array | None:
        if embed.rpe is None:
            return None
        relative = RelativeBias(self.cfg.positions, self.cfg.attention.head_dim)
        return relative(embed.rpe[...], order_T, order_T)

    def _run_layers(self, params: Params, x_MBTD, where: Where, bias, noise: Noise | None):
        """[M, B, T, D] -> the same: through the stages of a pipeline, or through all at once."""
        layers = {name: w for name, w in params.items() if name.startswith("layers.")}
        of_rows = noise and noise.rows, where.of_rows

        def run(x_BTD: jax.Array, weights: Params, first: int | jax.Array, of_rows) -> jax.Array:
            """The k layers of these weights, of which the first has this number."""
            rows_B, places = of_rows
            numbers_k = first + jnp.arange(_length(weights), dtype=jnp.int32)
            its_noise = noise and noise._replace(rows=rows_B)
            layer = self._layer(Where(where.order_T, *places), bias, its_noise)
            return jax.lax.scan(layer, x_BTD, (numbers_k, weights))[0]

        if self.layout.pipeline is not None:
            x_MBTD = jax.reshard(x_MBTD, self._stream(None))
            return self.layout.pipeline(run, layers, x_MBTD, of_rows)
        if x_MBTD.shape[0] != 1:
            raise ValueError(f"{x_MBTD.shape[0]} micro-batches, expected 1 without a pipeline")
        return run(x_MBTD[0], layers, 0, jax.tree.map(lambda x: x[0], of_rows))[None]

    def _layer(self, where: Where, bias: jax.Array | None, noise: Noise | None):
        """One layer as the body of a scan: (x [B, T, D], (its number, its weights)) -> x."""

        def layer(x_BTD: jax.Array, numbered: tuple[jax.Array, Params]):
            number, weights = numbered
            cast = {name: w.astype(self.compute) for name, w in weights.items()}
            block = self.part("layers", self._gathered(cast))
            inner = noise and noise.at(1 + number)
            return block(x_BTD, where, bias, inner, self.layout), None

        if self.remat.policy == "none":
            return layer
        return jax.checkpoint(layer, policy=POLICIES[self.remat.policy], prevent_cse=False)

    def part(self, name: str, weights: Params) -> Any:
        """The module `embed`, `layers` (one of them) or `final_norm` with its weights in place."""
        prefix, module = f"{name}.", getattr(self._declared, name)
        own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        return _merge(nnx.graphdef(module), own)

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

        def spec(name: str, w: jax.Array) -> PartitionSpec:
            axes = self.axes[name]
            return self.layout.weight(*axes[len(axes) - w.ndim :])

        return {name: gather(w, spec(name, w)) for name, w in weights.items()}


def _length(weights: Params) -> int:
    return next(iter(weights.values())).shape[0]


def _flat(module: nnx.Module) -> dict[str, nnx.Param]:
    return {".".join(map(str, path)): p for path, p in nnx.to_flat_state(nnx.state(module))}


def _merge(graph: Any, weights: Params) -> Any:
    flat = [(tuple(name.split(".")), nnx.Param(w)) for name, w in sorted(weights.items())]
    return nnx.merge(graph, nnx.from_flat_state(flat))
