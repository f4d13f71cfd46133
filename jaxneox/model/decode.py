"""Decoding: whole prompts at once, then one more token of every row beside what it has seen.

Both run the model's own layers; `CachedAttention` stands in for a layer's attention and keeps its
keys and values, `CachedMamba` for a mixer and keeps its state.
"""
# B rows, T length of the prompts, S positions that the cache holds, L layers
# D hidden, V padded vocabulary, K key-value heads, G query heads for each of them, H head

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxneox.errors import UserError
from jaxneox.model.attention import Attention, whole
from jaxneox.model.block import AttentionBlock, MambaBlock
from jaxneox.model.cache import Cache, empty_cache
from jaxneox.model.context import Context, TokenPositions
from jaxneox.model.kernels import mix
from jaxneox.model.kernels.einsum import attend, visible
from jaxneox.model.layout import Axes, on_devices
from jaxneox.model.losses import NO_LOGITS
from jaxneox.model.mamba.decoding import Advance, CachedMamba, run_prompt, run_token
from jaxneox.model.mamba.mixer import Mamba
from jaxneox.model.multiplied import multiplied
from jaxneox.model.neox import Model
from jaxneox.model.parameters import LAYERS, UNEMBEDDING, Params
from jaxneox.model.positions import RelativeBias
from jaxneox.model.unembedding import UnembeddingRows, project
from jaxneox.model.vocabulary import hide_added, padded


class Weights(NamedTuple):
    """A model's parameters with the layers apart.

    Slices of one stacked array would be copied for every token.
    """

    outer: Params  # float32
    layers: tuple[Params, ...]  # in the compute dtype
    output: UnembeddingRows


Mix = Callable[[int, Attention, jax.Array, jax.Array, jax.Array], jax.Array]
"""(place among the layers with attention, one's attention, queries [B, T, K, G, H], keys
[B, T, K, (G,) H], values [B, T, K, H]) -> what the heads read, [B, T, K, G, H]."""


class CachedAttention:
    """The attention of one layer, with a way to mix that keeps keys and values.

    Dynamic rope scaling rotates by the length that a text has when a token comes, and a key in the
    cache stays as it was rotated, as in transformers. Without a cache, where all tokens are rotated
    anew for each that is added, the function is another one beyond the original length.
    """

    def __init__(self, place: int, attention: Attention, lengths_B: jax.Array, mix: Mix):
        self.out_bias = attention.out_bias
        self._place, self._attention, self._mix = place, attention, mix
        self._lengths_B = lengths_B

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        attention, layout, positions = self._attention, context.layout, context.positions
        q, k, v = (whole(x, layout) for x in attention.project(x_BTD))
        if attention.rotary is not None:
            q = attention.rotary(q, positions.encoded, self._lengths_B)
            k = attention.rotary(k, positions.encoded, self._lengths_B)
        return attention.output(self._mix(self._place, attention, q, k, v), layout)


@dataclass(frozen=True)
class Decoder:
    """The functions of a model whose layout splits rows over dp and heads over tp.

    It holds no arrays.
    """

    model: Model

    def weights(
        self,
        params: Params,
        mesh: Mesh,
        *,
        release: bool = False,
        beside: Weights | None = None,
    ) -> Weights:
        """Lay out a model's parameters for decoding.

        Args:
            params: the parameters by name, float32.
            mesh: the devices.
            release: take each array out of `params` as soon as its copy is made.
            beside: of another model, whose arrays are used as they are for the parameters that
                `params` has not.

        Raises:
            UserError: it is a reward model, which writes no text.
        """
        model = self.model
        if model.cfg.head == "reward":
            raise UserError(NO_LOGITS)

        def laid(name: str) -> jax.Array:
            axes = model.axes[name]
            w = params.pop(name) if release else params[name]
            w = padded(w, axes, model.layout)
            return jax.device_put(w, NamedSharding(mesh, model.layout.weight(*axes)))

        def of_layer(w: jax.Array, place: int, dtype: str) -> jax.Array:
            return w.at[place].get(mode="promise_in_bounds").astype(dtype)

        take = jax.jit(of_layer, static_argnums=2)
        names = sorted(params)
        with jax.set_mesh(mesh):
            layers: tuple[Params, ...] = tuple({} for _ in range(model.cfg.num_layers))
            if beside is not None:
                layers = tuple(dict(layer) for layer in beside.layers)
            for name in (name for name in names if name.startswith(LAYERS)):
                stacked, dtype = laid(name), model.declaration.dtype(name, model.compute)
                for place, number in enumerate(model.declaration.holders(name)):
                    layers[number][name] = take(stacked, place, dtype)
            outer = {name: laid(name) for name in names if not name.startswith(LAYERS)}
            output = self._output(outer, beside)
            outer = {n: w for n, w in outer.items() if n not in UNEMBEDDING}
            return Weights(({} if beside is None else beside.outer) | outer, layers, output)

    def _output(self, outer: Params, beside: Weights | None) -> UnembeddingRows:
        """Make the output of new parameters, and of another model's where there are none."""
        model = self.model
        weight_name, bias_name = UNEMBEDDING
        weight_VD, bias_V = (None, None) if beside is None else beside.output
        if weight_name in outer:
            weight_VD = jax.jit(lambda w: w.T.astype(model.compute))(outer[weight_name])
        elif weight_name not in model.axes and "embed.tokens" in outer:  # tied
            weight_VD = outer["embed.tokens"]
            if weight_VD.dtype != model.compute:
                weight_VD = jax.jit(lambda w: w.astype(model.compute))(weight_VD)
        if beside is None or bias_name in outer:
            bias_V = hide_added(outer.get(bias_name), model.cfg.vocab_size, model.layout)
        assert weight_VD is not None
        return UnembeddingRows(weight_VD, bias_V)

    def empty(self, rows: int, length: int, mesh: Mesh) -> Cache:
        """Make a cache of zeros for `rows` rows of `length` positions."""
        model = self.model
        return empty_cache(model.cfg, rows, length, model.compute, model.layout, mesh)

    def prompts(
        self, weights: Weights, tokens_BT: jax.Array, lengths_B: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Run prompts of these lengths, which may be padded with any tokens at the end.

        Returns:
            The last layer's output, [B, T, D], and a cache whose S is T.
        """
        kept: tuple[list[jax.Array], ...] = ([], [], [], [])
        keys, values, tails, states = kept
        cfg, layout = self.model.cfg.attention, self.model.layout
        positions_T = jnp.arange(tokens_BT.shape[1])
        shared = self._shared_bias(weights, positions_T, positions_T)

        def keep(
            place: int, attention: Attention, q: jax.Array, k: jax.Array, v: jax.Array
        ) -> jax.Array:
            keys.append(jnp.moveaxis(k, 1, -2))
            values.append(jnp.moveaxis(v, 1, -2))
            return mix(q, k, v, positions_T, attention.extra(shared), None, cfg, layout)

        def start(place: int, mamba: Mamba, x_BTD: jax.Array) -> jax.Array:
            out_BTD, tail_BKC, state_BNGJ = run_prompt(mamba, x_BTD, lengths_B, layout)
            tails.append(tail_BKC)
            states.append(state_BNGJ)
            return out_BTD

        with self.model.matmuls():
            x_BTD = self._embed(weights, tokens_BT, positions_T)
            x_BTD = self._layers(weights, x_BTD, positions_T, lengths_B, keep, start)
            return x_BTD, Cache(*map(tuple, kept))

    def logits_at(self, weights: Weights, x_BTD: jax.Array, last_B: jax.Array) -> jax.Array:
        """Compute the logits after one position of each row: float32 [B, V]."""
        last_BT = jax.nn.one_hot(last_B, x_BTD.shape[1], dtype=x_BTD.dtype)
        with self.model.matmuls():
            x_BTD = jax.reshard(x_BTD, self.model.layout.activation("batch", None, "embed"))
            x_BTD = jnp.einsum("BTD,BT->BD", x_BTD, last_BT)[:, None]
        return self.logits(weights, x_BTD)[:, 0]

    def step(
        self, weights: Weights, cache: Cache, tokens_B: jax.Array, positions_B: jax.Array, span: int
    ) -> tuple[jax.Array, Cache]:
        """Run one more token of each row.

        Args:
            weights: the model's parameters.
            cache: the keys and values of the tokens before.
            tokens_B: int [B].
            positions_B: int [B], the positions of these tokens, all below `span`.
            span: how many positions of the cache are read.

        Returns:
            The logits after these tokens, float32 [B, V], and the cache with their keys and values.
        """
        keys, values, tails, states = map(list, cache)
        cfg, layout = self.model.cfg.attention, self.model.layout
        positions_BT, keys_S = positions_B[:, None], jnp.arange(span)
        mask = visible(positions_BT, keys_S, cfg.window)
        shared = self._shared_bias(weights, positions_BT, keys_S)

        def extend(
            place: int, attention: Attention, q: jax.Array, k: jax.Array, v: jax.Array
        ) -> jax.Array:
            keys[place] = self._write(keys[place], k[:, 0], positions_B)
            values[place] = self._write(values[place], v[:, 0], positions_B)
            k, v = (jnp.moveaxis(x[place][..., :span, :], -2, 1) for x in (keys, values))
            alibi = attention.alibi
            bias = shared if alibi is None else alibi(positions_BT, keys_S)
            return attend(q, k, v, mask, bias, None, cfg)

        def advance(place: int, mamba: Mamba, x_BTD: jax.Array) -> jax.Array:
            held = tails[place], states[place]
            out_BTD, tails[place], states[place] = run_token(mamba, x_BTD, *held, layout)
            return out_BTD

        with self.model.matmuls():
            x_BTD = self._embed(weights, tokens_B[:, None], positions_BT)
            x_BTD = self._layers(weights, x_BTD, positions_BT, positions_B + 1, extend, advance)
            return self.logits(weights, x_BTD)[:, 0], Cache(
                *map(tuple, (keys, values, tails, states))
            )

    def _layers(
        self,
        weights: Weights,
        x_BTD: jax.Array,
        positions: jax.Array,
        lengths_B: jax.Array,
        mix: Mix,
        advance: Advance,
    ) -> jax.Array:
        """Run x through all layers, with `mix` in an attention and `advance` for a mamba."""
        cfg, context = self.model.cfg, Context(TokenPositions(positions), self.model.layout)
        mambas, slots = 0, {number: slot for slot, number in enumerate(cfg.attending)}
        for number, (kind, layer) in enumerate(zip(cfg.kinds, weights.layers, strict=True)):
            block = self.model.declaration.layer(kind, layer)
            if isinstance(block, MambaBlock):
                assert isinstance(block.mamba, Mamba)
                block.mamba = CachedMamba(mambas, block.mamba, advance)
                mambas += 1
            else:
                assert isinstance(block, AttentionBlock) and isinstance(block.attention, Attention)
                place = slots.get(number, 0)  # one that is dropped is never called
                block.attention = CachedAttention(place, block.attention, lengths_B, mix)
            x_BTD, _ = block(x_BTD, context)
        return x_BTD

    def _embed(self, weights: Weights, tokens_BT: jax.Array, positions: jax.Array) -> jax.Array:
        """Embed tokens at positions [T] or [B, T]: [B, T, D]."""
        layout = self.model.layout
        embed = self.model.declaration.part("embed", weights.outer)
        spec, dtype = layout.activation("batch", "length", "embed"), jnp.dtype(self.model.compute)
        x_BTD = embed(tokens_BT, positions, spec, dtype)
        return jax.reshard(x_BTD, layout.activation("batch", "stream", "embed"))

    def logits(self, weights: Weights, x_BTD: jax.Array) -> jax.Array:
        """Compute logits from the last layer's output [B, T, D]: float32 [B, T, V]."""
        with self.model.matmuls():
            x_BTD = jax.reshard(x_BTD, self.model.layout.activation("batch", None, "embed"))
            x_BTD = self.model.declaration.part("final_norm", weights.outer)(x_BTD)
            x_BTD = multiplied(x_BTD, self.model.cfg.multipliers.output)
            return project(x_BTD, weights.output.unembedding, jnp.dtype("float32"))

    def _shared_bias(
        self, weights: Weights, queries: jax.Array, keys_S: jax.Array
    ) -> jax.Array | None:
        """Compute what every layer adds to its scores (rpe): [Z, K, G, T, S]."""
        table = weights.outer.get("embed.rpe")
        if table is None:
            return None
        cfg = self.model.cfg
        return RelativeBias(cfg.positions, cfg.attention.head_dim)(table, queries, keys_S)

    def _write(self, held: jax.Array, new: jax.Array, positions_B: jax.Array) -> jax.Array:
        """Write [B, K, (G,) H] into [B, K, (G,) S, H] at each row's position."""
        axes: Axes = ("batch", "kv_heads", *(None,) * (held.ndim - 2))

        def local(held: jax.Array, new: jax.Array, positions_B: jax.Array) -> jax.Array:
            rows_B = jnp.arange(held.shape[0])
            heads = (slice(None),) * (held.ndim - 3)
            return held.at[(rows_B, *heads, positions_B)].set(new)

        inputs: tuple[Axes, ...] = (axes, (*axes[:-2], None), ("batch",))
        return on_devices(lambda *a: (local(*a),), inputs, (axes,), self.model.layout)(
            held, new, positions_B
        )[0]
