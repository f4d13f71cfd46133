"""A pool of rows that generate together; each may get a new prompt while the others go on."""
# B rows of the pool, n new prompts

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxneox.infer.programs import Programs, RowStates
from jaxneox.infer.prompt_scores import PromptScores
from jaxneox.infer.sampling import Chosen, Sampling, sampling_arrays
from jaxneox.model.cache import Cache
from jaxneox.model.decode import Weights

SHORTEST = 32
"""The least padded length of a prompt, and a quarter of the least part of the cache that is read.

Lengths between two powers of two share one compilation.
"""


class Engine:
    """Generates one token at a time for all of its rows.

    Calls return before the device is done, so that the next can be prepared meanwhile.

    Attributes:
        rows: how many answers generate at once.
        length: positions of a row; the last token of an answer needs none.
        cache_bytes: memory of the cache, and of what is kept of the rows.
    """

    def __init__(self, programs: Programs, weights: Weights):
        """Make an engine with an empty cache.

        Args:
            programs: of a pool of so many rows and positions.
            weights: the parameters.
        """
        self.programs, self._weights = programs, weights
        self.rows, self.length = programs.rows, programs.length
        self._cache: Cache | None = None
        self._state: RowStates | None = None
        self._positions = np.zeros(self.rows, np.int64)  # the same, where Python can look
        self.allocate()
        self.cache_bytes = sum(x.nbytes for x in jax.tree.leaves((self._cache, self._state)))

    @property
    def allocated(self) -> bool:
        """Whether there is a cache now."""
        return self._cache is not None

    def allocate(self) -> None:
        """Make an empty cache, unless there is one."""
        if self._cache is None:
            self._cache, self._state = self.programs.empty(), self.programs.idle()

    def free(self) -> None:
        """Give the cache's memory back; rows that still generate are lost with it."""
        self._cache = self._state = None

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
        count = -(-power(len(prompts), 1) // self.programs.parts) * self.programs.parts
        tokens = np.zeros((count, min(power(longest, SHORTEST), self.length)), np.int32)
        last, where = np.zeros(count, np.int32), np.full(count, self.rows, np.int32)
        for i, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            tokens[i, : len(prompt)], last[i], where[i] = prompt, len(prompt) - 1, slot
            self._positions[slot : slot + 1] = len(prompt)
        settings = sampling_arrays([*sampling, *[Sampling()] * (count - len(prompts))])
        with jax.set_mesh(self.programs.mesh):
            new = self.programs.laid((tokens, last, settings))
            self._cache, self._state, *results = self.programs.admit(
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
        with jax.set_mesh(self.programs.mesh):
            self._cache, self._state, chosen = self.programs.step(
                self._weights, self._cache, self._state, self.programs.laid(moving), span
            )
        return chosen

    def clear(self, slot: int) -> None:
        """Set a row that holds NaNs to zeros, because NaN times nothing is NaN again."""
        assert self._cache is not None
        with jax.set_mesh(self.programs.mesh):
            marked_B = self.programs.laid(np.arange(self.rows) == slot)
            self._cache = self.programs.zero(self._cache, marked_B)

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
