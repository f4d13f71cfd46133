"""Generation without a cache: every token runs all before it again (NeoX's `recompute`).

It is slow, and as simple as it can be: the engine's answers are held against it.
"""
# B rows, S positions, V padded vocabulary

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxneox.infer.sampling import (
    Chosen,
    Sampling,
    SamplingArrays,
    known_tokens,
    pick,
    sampling_arrays,
)
from jaxneox.infer.scoring import as_long_as_its_text
from jaxneox.model import Model, Params
from jaxneox.parallel.compiler_options import jit_on


class Recompute:
    """Has the interface of `Engine`, on the mesh on which the model computes logits."""

    def __init__(
        self, model: Model, params: Params, mesh: Mesh, *, rows: int, length: int, known: int | None
    ):
        parts, steps = model.layout.parts("batch"), model.layout.parts("length")
        self.rows = -(-rows // parts) * parts
        self.length, self.known = length, known
        self._model, self._params, self._mesh = model, params, mesh
        self._tokens = np.zeros((self.rows, -(-length // steps) * steps), np.int32)
        self._lengths, self._numbers = np.ones((2, self.rows), np.int32)
        self._counts = np.zeros((self.rows, known_tokens(model.cfg, known)), np.int32)
        self._sampling = [Sampling()] * self.rows

    def admit(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]
    ) -> Chosen:
        for slot, prompt, its_sampling in zip(slots, prompts, sampling, strict=True):
            self._tokens[slot, : len(prompt)], self._lengths[slot] = prompt, len(prompt)
            self._numbers[slot], self._sampling[slot] = 0, its_sampling
            self._counts[slot] = 0
        all_rows = self._next(slots)
        return jax.tree.map(lambda x: np.asarray(x)[list(slots)], all_rows)

    def step(self, active: Sequence[int]) -> Chosen:
        return self._next([slot for slot in active if self._lengths[slot] < self.length])

    def clear(self, slot: int) -> None:
        self._tokens[slot] = 0

    def _next(self, slots: Sequence[int]) -> Chosen:
        lengths = [self._length(end) for end in self._lengths.tolist()]
        each = {length: self._chosen(length) for length in set(lengths)}
        rows = [jax.tree.map(lambda x, i=i: x[i], each[n]) for i, n in enumerate(lengths)]
        chosen = jax.tree.map(lambda *row: np.stack(row), *rows)
        tokens_B = np.asarray(chosen.token_B)
        for slot in slots:
            if self._lengths[slot] < self._tokens.shape[1]:
                self._tokens[slot, self._lengths[slot]] = tokens_B[slot]
            if tokens_B[slot] < self._counts.shape[1]:  # else there were no numbers to choose by
                self._counts[slot, tokens_B[slot]] += 1
            self._lengths[slot] += 1
            self._numbers[slot] += 1
        return chosen

    def _length(self, end: int) -> int:
        """Return how many positions are computed: all, unless the function depends on it."""
        full, steps = self._tokens.shape[1], self._model.layout.parts("length")
        return as_long_as_its_text(full, min(end, full), steps, self._model.cfg.positions)

    def _chosen(self, length: int) -> Chosen:
        """Choose the next token of every row, by its first positions alone."""
        laid = NamedSharding(self._mesh, self._model.layout.activation("batch", None))
        row = NamedSharding(self._mesh, self._model.layout.activation("batch"))
        with jax.set_mesh(self._mesh):
            settings = jax.device_put(sampling_arrays(self._sampling), row)
            at = jax.device_put((self._lengths - 1, self._numbers, self._counts), row)
            tokens = jax.device_put(self._tokens[:, :length], laid)
            chosen = self._pick(self._params, tokens, settings, *at)
        return jax.tree.map(np.asarray, chosen)

    @functools.cached_property
    def _pick(self) -> Callable[..., Chosen]:
        layout = self._model.layout

        def next_tokens(
            params: Params,
            tokens_BS: jax.Array,
            settings: SamplingArrays,
            last_B: jax.Array,
            number_B: jax.Array,
            counts_BV: jax.Array,
        ) -> Chosen:
            logits_BSV = self._model.logits(params, tokens_BS)
            last_BS = jax.nn.one_hot(last_B, tokens_BS.shape[1], dtype=jnp.bool_)
            logits_BV = jnp.sum(jnp.where(last_BS[..., None], logits_BSV, 0), axis=1)
            return pick(layout, 0, logits_BV, settings, number_B, counts_BV)[0]

        return jit_on(self._mesh, next_tokens)
