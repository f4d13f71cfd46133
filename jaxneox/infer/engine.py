"""A pool of rows that generate together; each may get a new prompt while the others go on."""
# B rows of the pool, n new prompts, T their padded length, S positions in the cache, V vocabulary

import functools
from collections.abc import Callable, Iterator, Sequence
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
from jaxneox.model.decode import Cache, Decoder, Weights, cache_axes
from jaxneox.model.layout import Axes, on_devices

SHORTEST = 32
"""The least padded length of a prompt, and a quarter of the least part of the cache that is read.

Lengths between two powers of two share one compilation.
"""


class RowStates(NamedTuple):
    """The state of each row, whose token is chosen but not yet in the cache."""

    token_B: jax.Array
    position_B: jax.Array  # of that token
    number_B: jax.Array  # of that token in its answer, from 0
    counts_BV: jax.Array  # how often each token is in the answer, that one included
    settings: SamplingArrays


class Engine:
    """Generates one token at a time for all of its rows.

    Calls return before the device is done, so that the next can be prepared meanwhile.

    Attributes:
        rows: how many answers generate at once.
        length: positions of a row; the last token of an answer needs none.
    """

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        mesh: Mesh,
        *,
        rows: int,
        length: int,
        known: int | None = None,
        tops: int = 0,
    ):
        """Make an engine with an empty cache.

        Args:
            decoder: the model's functions.
            weights: its parameters.
            mesh: the devices.
            rows: how many answers generate at once, at least.
            length: positions of a row.
            known: how many tokens of the vocabulary the tokenizer has, all unless given; no other
                is ever chosen.
            tops: how many of the most likely tokens are returned at each position.
        """
        parts = decoder.model.layout.parts("batch")
        self.rows, self.length = -(-rows // parts) * parts, length
        self._parts, self._mesh, self._decoder, self._weights = parts, mesh, decoder, weights
        self.known, self.tops = known, tops
        self._tokens = known_tokens(decoder.model.cfg, known)
        self._pick = functools.partial(pick, decoder.model.layout, tops)
        self._cache = decoder.empty(self.rows, length, mesh)
        self._state = self._laid(self._idle())
        self._positions = np.zeros(self.rows, np.int64)  # the same, where Python can look

    def _idle(self) -> RowStates:
        """Make the state of idle rows. Each array is one of its own, because they are donated."""
        settings = sampling_arrays([Sampling()] * self.rows)
        token_B, position_B, number_B = (jnp.zeros(self.rows, jnp.int32) for _ in range(3))
        counts_BV = jnp.zeros((self.rows, self._tokens), jnp.int32)
        return RowStates(token_B, position_B, number_B, counts_BV, settings)

    def admit(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]
    ) -> Chosen:
        """Start new prompts in some rows, and return the first token of each, [n or more]."""
        return self._fill(slots, prompts, sampling, scored=False)[0]

    def score(
        self, slot: int, prompt: Sequence[int], sampling: Sampling
    ) -> tuple[Chosen, PromptScores]:
        """Start one prompt, and return how likely its own tokens are as well.

        The arrays are [1 or more, the prompt's length or more]. With the slot `rows`, which is no
        row, the prompt is scored and takes none.
        """
        chosen, scored = self._fill([slot], [prompt], [sampling], scored=True)
        assert scored is not None
        return chosen, scored

    def _fill(
        self,
        slots: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        *,
        scored: bool,
    ) -> tuple[Chosen, PromptScores | None]:
        longest = max(map(len, prompts))
        count = -(-power(len(prompts), 1) // self._parts) * self._parts
        tokens = np.zeros((count, min(power(longest, SHORTEST), self.length)), np.int32)
        last, where = np.zeros(count, np.int32), np.full(count, self.rows, np.int32)
        for i, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            tokens[i, : len(prompt)], last[i], where[i] = prompt, len(prompt) - 1, slot
            self._positions[slot : slot + 1] = len(prompt)
        settings = sampling_arrays([*sampling, *[Sampling()] * (count - len(prompts))])
        with jax.set_mesh(self._mesh):
            new = self._laid((tokens, last, settings))
            self._cache, self._state, *results = self._admit(
                self._weights, self._cache, self._state, where, *new, scored
            )
        chosen, scores = results
        return chosen, scores

    def step(self, active: Sequence[int]) -> Chosen:
        """Generate one more token of every row; rows that are not active stay where they are."""
        moving = np.zeros(self.rows, bool)
        moving[list(active)] = True
        span = min(power(int(self._positions[moving].max()) + 1, 4 * SHORTEST), self.length)
        self._positions[moving] += 1
        with jax.set_mesh(self._mesh):
            self._cache, self._state, chosen = self._step(
                self._weights, self._cache, self._state, self._laid(moving), span
            )
        return chosen

    def clear(self, slot: int) -> None:
        """Set a row that holds NaNs to zeros, because NaN times nothing is NaN again."""
        with jax.set_mesh(self._mesh):
            marked_B = self._laid(np.arange(self.rows) == slot)
            self._cache = self._zero(self._cache, marked_B)

    def warm(self) -> Iterator[str]:
        """Compile all programs that may be asked for; yield what comes next, before it is done."""
        for length in doubled(SHORTEST, self.length):
            yield f"prompts of {length:,} tokens"
            self.admit([self.rows], [[0] * length], [Sampling()])
            yield f"scores of {length:,} tokens"
            self.score(self.rows, [0] * length, Sampling())
        for span in doubled(4 * SHORTEST, self.length):
            yield f"steps over {span:,} positions"
            self._positions[0] = span - 1
            self.step([0]).token_B.block_until_ready()
        self._positions[0] = 0

    @functools.cached_property
    def _admit(self) -> Callable[..., Any]:
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
            x_nTD, fresh = self._decoder.prompts(weights, tokens_nT, last_n + 1)
            logits_nV = self._decoder.logits_at(weights, x_nTD, last_n)
            zero_n = jnp.zeros_like(last_n)
            none_nV = self._none(len(last_n))
            chosen, counts_nV = self._pick(logits_nV, settings, zero_n, none_nV)
            new = RowStates(chosen.token_B, last_n + 1, zero_n, counts_nV, settings)
            scores = self._score(weights, x_nTD, tokens_nT) if scored else None
            return self._place(cache, fresh, slots), self._place(state, new, slots), chosen, scores

        return jax.jit(admit, donate_argnums=(1, 2), static_argnums=7)

    def _score(self, weights: Weights, x_nTD: jax.Array, tokens_nT: jax.Array) -> PromptScores:
        logits = functools.partial(self._decoder.logits, weights)
        layout = self._decoder.model.layout
        return score(layout, self.known, self.tops, logits, x_nTD, tokens_nT)

    def _none(self, rows: int) -> jax.Array:
        """Make the counts of answers that have no token yet."""
        spec = self._decoder.model.layout.activation("batch", None)
        return jnp.zeros((rows, self._tokens), jnp.int32, out_sharding=spec)

    @functools.cached_property
    def _step(self) -> Callable[..., Any]:
        def step(
            weights: Weights, cache: Cache, state: RowStates, moving_B: jax.Array, span: int
        ) -> tuple[Cache, RowStates, Chosen]:
            position_B = jnp.minimum(state.position_B, span - 1)  # of rows that do not matter
            logits_BV, cache = self._decoder.step(weights, cache, state.token_B, position_B, span)
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
    def _zero(self) -> Callable[[Cache, jax.Array], Cache]:
        def zero(cache: Cache, marked_B: jax.Array) -> Cache:
            def of(held: jax.Array) -> jax.Array:
                return jnp.where(marked_B.reshape(-1, *(1,) * (held.ndim - 1)), 0, held)

            return jax.tree.map(of, cache)

        return jax.jit(zero, donate_argnums=0)

    def _place(self, pool: Any, new: Any, slots_n: jax.Array) -> Any:
        """Write n new rows into arrays of B rows at `slots_n`; leave out slots outside the pool."""
        layout = self._decoder.model.layout
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
            settings: Axes = ("batch", None)
            axes = cache_axes(held.ndim) if held.ndim > 2 else settings[: held.ndim]
            inputs: tuple[Axes, ...] = (axes, (None, *axes[1:]), (None,), ("batch",))
            whole = jax.reshard(fresh, layout.activation(None, *axes[1:]))
            slots = jax.reshard(jnp.asarray(slots_n), layout.activation(None))
            return on_devices(local, inputs, (axes,), layout)(held, whole, slots, numbers_B)[0]

        return jax.tree.map(place, pool, new)

    def _laid(self, arrays: Any) -> Any:
        """Put arrays [B, …] of the host on the devices, the rows split as the pool's."""
        layout = self._decoder.model.layout

        def lay(x: np.ndarray | jax.Array) -> jax.Array:
            spec = layout.activation("batch", *(None,) * (x.ndim - 1))
            return jax.device_put(x, NamedSharding(self._mesh, spec))

        return jax.tree.map(lay, arrays)


def power(number: int, least: int) -> int:
    """Return the least `least * 2 ** n` that is not below `number`."""
    while least < number:
        least *= 2
    return least


def doubled(least: int, most: int) -> list[int]:
    """List all values of `min(power(number, least), most)` for numbers up to `most`."""
    lengths = [min(least, most)]
    while lengths[-1] < most:
        lengths.append(min(2 * lengths[-1], most))
    return lengths
