"""Generation's two functions: whole prompts at once, then one more token of every row beside the
keys and values of those before it."""
# B rows, T length of the prompts, S positions that the cache holds, L layers
# D hidden, V padded vocabulary, K key-value heads, G query heads for each of them, H head

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxneox.model.attention import Attention, whole
from jaxneox.model.kernels import mix
from jaxneox.model.kernels.einsum import attend, visible
from jaxneox.model.layout import Axes, Layout, on_devices
from jaxneox.model.loss import Unembedding, project
from jaxneox.model.neox import Model, Params
from jaxneox.model.positions import RelativeBias


class Cache(NamedTuple):
    """L keys and L values, [B, K, S, H] each; keys that have a norm [B, K, G, S, H]. None where
    the layers' attention is dropped.

    A row has seen the positions before its own. What lies there and after is a leftover, written
    over before anything sees it.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


class Weights(NamedTuple):
    """A model's parameters, the layers apart: slices of one stacked array would be copied for
    every token."""

    outer: Params  # float32
    layers: tuple[Params, ...]  # in the compute dtype
    unembedding: Unembedding


Read = Callable[[int, Attention, jax.Array], jax.Array]
"""(layer's number, its attention, x [B, T, D]) -> what its heads read, [B, T, K, G, H]"""


@dataclass(frozen=True)
class Decoder:
    """The functions of a model whose layout splits rows over dp and heads over tp. No arrays."""

    model: Model

    def weights(self, params: Params, mesh: Mesh, *, release: bool = False) -> Weights:
        """`release` takes each array out of `params` as soon as its copy is made."""
        model = self.model

        def laid(name: str) -> jax.Array:
            spec = model.layout.weight(*model.axes[name])
            w = params.pop(name) if release else params[name]
            return jax.device_put(w, NamedSharding(mesh, spec))

        take = jax.jit(lambda w, i: w.at[i].get(mode="promise_in_bounds").astype(model.compute))
        unembed = jax.jit(lambda w: w.astype(model.compute))
        names = sorted(params)
        with jax.set_mesh(mesh):
            layers: tuple[Params, ...] = tuple({} for _ in range(model.cfg.num_layers))
            for name in (name for name in names if name.startswith("layers.")):
                stacked = laid(name)
                for number, layer in enumerate(layers):
                    layer[name] = take(stacked, number)
            outer = {name: laid(name) for name in names if not name.startswith("layers.")}
            bias, weight_DV = outer.pop("unembed.bias", None), outer.pop("unembed.weight", None)
            if weight_DV is None:
                weight_DV = jax.jit(jnp.transpose)(outer["embed.tokens"])
            return Weights(outer, layers, Unembedding(unembed(weight_DV), bias))

    def empty(self, rows: int, length: int, mesh: Mesh) -> Cache:
        cfg = self.model.cfg.attention
        value = (rows, cfg.kv_heads, length, cfg.head_dim)
        key = (rows, cfg.kv_heads, cfg.group, length, cfg.head_dim) if cfg.qk_norm else value
        layers = 0 if self.model.cfg.attention_dropped else self.model.cfg.num_layers

        def zeros(shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
            spec = self.model.layout.activation(*cache_axes(len(shape)))
            make = jax.jit(
                lambda: jnp.zeros(shape, self.model.compute),
                out_shardings=NamedSharding(mesh, spec),
            )
            return tuple(make() for _ in range(layers))

        return Cache(zeros(key), zeros(value))

    def prompts(
        self, weights: Weights, tokens_BT: jax.Array, lengths_B: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Prompts of these lengths, padded after their ends with anything.

        -> what the last layer leaves, [B, T, D], and a cache whose S is T.
        """
        keys: list[jax.Array] = []
        values: list[jax.Array] = []
        cfg, layout = self.model.cfg.attention, self.model.layout
        positions_T = jnp.arange(tokens_BT.shape[1])
        shared = self._shared_bias(weights, positions_T, positions_T)

        def read(number: int, attention: Attention, x_BTD: jax.Array) -> jax.Array:
            q, k, v = _project(attention, x_BTD, positions_T, lengths_B, layout)
            keys.append(jnp.moveaxis(k, 1, -2))
            values.append(jnp.moveaxis(v, 1, -2))
            return mix(q, k, v, positions_T, attention.extra(shared), None, cfg, layout)

        with self.model.matmuls():
            x_BTD = self._layers(weights, self._embed(weights, tokens_BT, positions_T), read)
            return x_BTD, Cache(tuple(keys), tuple(values))

    def logits_at(self, weights: Weights, x_BTD: jax.Array, last_B: jax.Array) -> jax.Array:
        """Of one position of each row: float32 [B, V]"""
        last_BT = jax.nn.one_hot(last_B, x_BTD.shape[1], dtype=x_BTD.dtype)
        with self.model.matmuls():
            x_BTD = jax.reshard(x_BTD, self.model.layout.activation("batch", None, "embed"))
            x_BTD = jnp.einsum("BTD,BT->BD", x_BTD, last_BT)[:, None]
        return self.logits(weights, x_BTD)[:, 0]

    def step(
        self, weights: Weights, cache: Cache, tokens_B: jax.Array, positions_B: jax.Array, span: int
    ) -> tuple[jax.Array, Cache]:
        """One token of each row, at positions below `span`, which is all of the cache that is read.

        -> float32 [B, V], the logits after it, and the cache with its key and value.
        """
        keys, values = list(cache.keys), list(cache.values)
        cfg, layout = self.model.cfg.attention, self.model.layout
        positions_BT, keys_S = positions_B[:, None], jnp.arange(span)
        mask = visible(positions_BT, keys_S, cfg.window)
        shared = self._shared_bias(weights, positions_BT, keys_S)

        def read(number: int, attention: Attention, x_BTD: jax.Array) -> jax.Array:
            q, k, v = _project(attention, x_BTD, positions_BT, positions_B + 1, layout)
            keys[number] = self._write(keys[number], k[:, 0], positions_B)
            values[number] = self._write(values[number], v[:, 0], positions_B)
            k, v = (jnp.moveaxis(x[number][..., :span, :], -2, 1) for x in (keys, values))
            bias = _bias(attention, shared, positions_BT, keys_S)
            return attend(q, k, v, mask, bias, None, cfg)

        with self.model.matmuls():
            x_BTD = self._embed(weights, tokens_B[:, None], positions_BT)
            x_BTD = self._layers(weights, x_BTD, read)
            return self.logits(weights, x_BTD)[:, 0], Cache(tuple(keys), tuple(values))

    def _layers(self, weights: Weights, x_BTD: jax.Array, read: Read) -> jax.Array:
        layout = self.model.layout
        for number, layer in enumerate(weights.layers):
            block = self.model.part("layers", layer)

            def attention(x: jax.Array, number=number, block=block) -> jax.Array:
                return block.attention.output(read(number, block.attention, x), layout)

            x_BTD = block.residual(block, x_BTD, attention, None, layout)
        return x_BTD

    def _embed(self, weights: Weights, tokens_BT: jax.Array, positions: jax.Array) -> jax.Array:
        """positions [T] or [B, T] -> [B, T, D]"""
        layout = self.model.layout
        embed = self.model.part("embed", weights.outer)
        x_BTD = embed(tokens_BT, positions, layout.activation("batch", "length", "embed"))
        return jax.reshard(
            x_BTD.astype(self.model.compute), layout.activation("batch", "stream", "embed")
        )

    def logits(self, weights: Weights, x_BTD: jax.Array) -> jax.Array:
        """What the last layer leaves -> float32 [B, T, V]"""
        with self.model.matmuls():
            x_BTD = jax.reshard(x_BTD, self.model.layout.activation("batch", None, "embed"))
            x_BTD = self.model.part("final_norm", weights.outer)(x_BTD)
            return project(x_BTD, weights.unembedding, jnp.dtype("float32"))

    def _shared_bias(self, weights: Weights, queries: jax.Array, keys_S: jax.Array):
        """What every layer adds to its scores (rpe): [Z, K, G, T, S]"""
        table = weights.outer.get("embed.rpe")
        if table is None:
            return None
        cfg = self.model.cfg
        return RelativeBias(cfg.positions, cfg.attention.head_dim)(table, queries, keys_S)

    def _write(self, held: jax.Array, new: jax.Array, positions_B: jax.Array) -> jax.Array:
        """[B, K, (G,) S, H] with [B, K, (G,) H] at each row's position"""
        axes = cache_axes(held.ndim)

        def local(held: jax.Array, new: jax.Array, positions_B: jax.Array) -> jax.Array:
            rows_B = jnp.arange(held.shape[0])
            heads = (slice(None),) * (held.ndim - 3)
            return held.at[(rows_B, *heads, positions_B)].set(new)

        inputs: tuple[Axes, ...] = (axes, (*axes[:-2], None), ("batch",))
        return on_devices(lambda *a: (local(*a),), inputs, (axes,), self.model.layout)(
            held, new, positions_B
        )[0]


def cache_axes(ndim: int) -> Axes:
    """Of an array in the cache, keys or values."""
    return "batch", "kv_heads", *(None,) * (ndim - 2)


def _project(
    attention: Attention,
    x_BTD: jax.Array,
    positions: jax.Array,
    lengths_B: jax.Array,
    layout: Layout,
):
    """-> queries, keys and values as `Attention.project`, turned by their positions.

    Dynamic rope scaling turns by the length that a text has when a token comes, and a key in the
    cache stays as it was turned, as in transformers. Without a cache, where all tokens are turned
    anew for each that is added, the function is another one beyond the original length.
    """
    q, k, v = (whole(x, layout) for x in attention.project(x_BTD))
    if attention.rotary is None:
        return q, k, v
    return *(attention.rotary(x, positions, lengths_B) for x in (q, k)), v


def _bias(attention: Attention, shared: jax.Array | None, queries: jax.Array, keys_S: jax.Array):
    return shared if attention.alibi is None else attention.alibi(queries, keys_S)
