"""The programs of a pool of rows: new prompts in some rows, one more token of each row.

They hold no arrays. Models of one form, such as the adapters of one rank beside one base, share
them, so that they are compiled once.
"""
# B rows of the pool, n new prompts, T their padded length, S positions in the cache, V vocabulary

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxneox.infer.prompt_scores import PromptScores, score
from jaxneox.infer.sampling import (
    Chosen,
    Sampling,
    SamplingArrays,
    known_tokens,
    pick,
    sampling_arrays,
)
from jaxneox.model.cache import Cache, cache_axes
from jaxneox.model.decode import Decoder, Weights
from jaxneox.model.layout import Axes, on_devices


class RowStates(NamedTuple):
    """The state of each row, whose token is chosen but not yet in the cache."""

    token_B: jax.Array
    position_B: jax.Array  # of that token
    number_B: jax.Array  # of that token in its answer, from 0
    counts_BV: jax.Array  # how often each token is in the answer, that one included
    settings: SamplingArrays


class Programs:
    """The functions of a pool of `rows` rows with `length` positions each."""

    def __init__(
        self,
        decoder: Decoder,
        mesh: Mesh,
        *,
        rows: int,
        length: int,
        known: int | None = None,
        tops: int = 0,
    ):
        """Make the functions; each is compiled when it is first called.

        Args:
            decoder: the model's functions.
            mesh: the devices.
            rows: how many answers generate at once, at least.
            length: positions of a row.
            known: how many tokens of the vocabulary the tokenizer has, all unless given; no other
                is ever chosen.
            tops: how many of the most likely tokens are returned at each position.
        """
        self.parts = decoder.model.layout.parts("batch")
        self.rows, self.length = -(-rows // self.parts) * self.parts, length
        self.mesh, self.decoder = mesh, decoder
        self.known, self.tops = known, tops
        self._tokens = known_tokens(decoder.model.cfg, known)
        self._pick = functools.partial(pick, decoder.model.layout, tops)

    def empty(self) -> Cache:
        """Make an empty cache."""
        return self.decoder.empty(self.rows, self.length, self.mesh)

    def idle(self) -> RowStates:
        """Make the state of idle rows. Each array is one of its own, because they are donated."""
        settings = sampling_arrays([Sampling()] * self.rows)
        token_B, position_B, number_B = (jnp.zeros(self.rows, jnp.int32) for _ in range(3))
        counts_BV = jnp.zeros((self.rows, self._tokens), jnp.int32)
        return self.laid(RowStates(token_B, position_B, number_B, counts_BV, settings))

    @functools.cached_property
    def admit(self) -> Callable[..., Any]:
        def admit(
            weights: Weights,
            cache: Cache,
            state: RowStates,
            slots: jax.Array,
            tokens_nT: jax.Array,
            last_n: jax.Array,
            settings: SamplingArrays,
            scored: bool,
        ) -> tuple[Cache, RowStates, Chosen, PromptScores | None]:
            x_nTD, fresh = self.decoder.prompts(weights, tokens_nT, last_n + 1)
            logits_nV = self.decoder.logits_at(weights, x_nTD, last_n)
            zero_n = jnp.zeros_like(last_n)
            none_nV = self._none(len(last_n))
            chosen, counts_nV = self._pick(logits_nV, settings, zero_n, none_nV)
            new = RowStates(chosen.token_B, last_n + 1, zero_n, counts_nV, settings)
            scores = self._score(weights, x_nTD, tokens_nT) if scored else None
            cache, state = self._admitted(cache, fresh, slots), self._place(state, new, slots)
            return cache, state, chosen, scores

        return jax.jit(admit, donate_argnums=(1, 2), static_argnums=7)

    def _score(self, weights: Weights, x_nTD: jax.Array, tokens_nT: jax.Array) -> PromptScores:
        logits = functools.partial(self.decoder.logits, weights)
        layout = self.decoder.model.layout
        return score(layout, self.known, self.tops, logits, x_nTD, tokens_nT)

    def _none(self, rows: int) -> jax.Array:
        """Make the counts of answers that have no token yet."""
        spec = self.decoder.model.layout.activation("batch", None)
        return jnp.zeros((rows, self._tokens), jnp.int32, out_sharding=spec)

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        def step(
            weights: Weights, cache: Cache, state: RowStates, moving_B: jax.Array, span: int
        ) -> tuple[Cache, RowStates, Chosen]:
            position_B = jnp.minimum(state.position_B, span - 1)  # of rows that do not matter
            logits_BV, cache = self.decoder.step(weights, cache, state.token_B, position_B, span)
            number_B = state.number_B + 1
            chosen, counts_BV = self._pick(logits_BV, state.settings, number_B, state.counts_BV)
            moved = (chosen.token_B, state.position_B + 1, number_B)
            token_B, position_B, number_B = (
                jnp.where(moving_B, new, old) for new, old in zip(moved, state[:3], strict=True)
            )
            # of rows that stay where they are no count matters: their answers have ended
            after = RowStates(token_B, position_B, number_B, counts_BV, state.settings)
            return cache, after, chosen

        return jax.jit(step, donate_argnums=(1, 2), static_argnums=4)

    @functools.cached_property
    def zero(self) -> Callable[[Cache, jax.Array], Cache]:
        def zero(cache: Cache, marked_B: jax.Array) -> Cache:
            def of(held: jax.Array) -> jax.Array:
                return jnp.where(marked_B.reshape(-1, *(1,) * (held.ndim - 1)), 0, held)

            return jax.tree.map(of, cache)

        return jax.jit(zero, donate_argnums=0)

    def _admitted(self, cache: Cache, fresh: Cache, slots_n: jax.Array) -> Cache:
        """Write n new rows into the cache."""
        axes = cache_axes(self.decoder.model.cfg, self.decoder.model.layout)
        each = zip(cache, fresh, axes, strict=True)
        return Cache(*(self._place(held, new, slots_n, own) for held, new, own in each))

    def _place(self, pool: Any, new: Any, slots_n: jax.Array, axes: Axes | None = None) -> Any:
        """Write n new rows into arrays of B rows at `slots_n`; leave out slots outside the pool.

        Arrays of these logical axes, of at least three, may be longer along the last but one. Only
        the rows are split unless axes are given.
        """
        layout = self.decoder.model.layout
        numbers_B = jax.reshard(jnp.arange(self.rows), layout.activation("batch"))

        def local(
            held: jax.Array, fresh: jax.Array, slots: jax.Array, numbers: jax.Array
        ) -> tuple[jax.Array]:
            here = slots - numbers[0]
            here = jnp.where(here < 0, held.shape[0], here)
            if held.ndim < 3:
                return (held.at[here].set(fresh, mode="drop"),)
            heads = (slice(None),) * (held.ndim - 3)
            return (held.at[(here, *heads, slice(fresh.shape[-2]))].set(fresh, mode="drop"),)

        def place(held: jax.Array, fresh: jax.Array) -> jax.Array:
            own: Axes = axes or ("batch", *(None,) * (held.ndim - 1))
            inputs: tuple[Axes, ...] = (own, (None, *own[1:]), (None,), ("batch",))
            whole = jax.reshard(fresh, layout.activation(None, *own[1:]))
            slots = jax.reshard(jnp.asarray(slots_n), layout.activation(None))
            return on_devices(local, inputs, (own,), layout)(held, whole, slots, numbers_B)[0]

        return jax.tree.map(place, pool, new)

    def laid(self, arrays: Any) -> Any:
        """Put arrays [B, …] of the host on the devices, the rows split as the pool's."""
        layout = self.decoder.model.layout

        def lay(x: np.ndarray | jax.Array) -> jax.Array:
            spec = layout.activation("batch", *(None,) * (x.ndim - 1))
            return jax.device_put(x, NamedSharding(self.mesh, spec))

        return jax.tree.map(lay, arrays)
