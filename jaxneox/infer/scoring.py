"""Log-probabilities of texts: requests of any length through programs of a few shapes."""
# B rows, T length, C scored tokens

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from jaxneox.config.schema import ModelConfig, PositionConfig
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.stream import check_text
from jaxneox.model import Model, Params
from jaxneox.parallel.compiler_options import jit_on

BUDGET = 2048
"""Tokens of a batch on each device that splits batches."""


class Request(NamedTuple):
    """Tokens, of which the first `given` (one at least) are context and the others are scored."""

    tokens: Sequence[int]
    given: int


class Scored(NamedTuple):
    """The scores of a request's tokens after its context.

    Attributes:
        logprobs: the log-probability of each.
        likeliest: whether no token is more likely.
    """

    logprobs: NDArray[np.float32]
    likeliest: NDArray[np.bool_]  # no token is more likely

    @property
    def total(self) -> float:
        """The log-probability of all of them, summed in float64.

        Raises:
            UserError: the model gave no numbers.
        """
        total = float(self.logprobs.sum(dtype=np.float64))
        if not math.isfinite(total):
            raise UserError(no_number(total))
        return total


class Shape(NamedTuple):
    """The padded length of a request, and its padded count of scored tokens."""

    length: int
    scored: int


class ScoringBatch(NamedTuple):
    """Requests that are scored together: their numbers, at most as many as there are rows."""

    shape: Shape
    rows: int
    numbers: list[int]  # of the requests, as many as there are rows or fewer


class Scorer:
    """Scores requests: `scorer(params, requests)` returns a `Scored` for each, in their order.

    Requests of like length go together. Lengths are padded to two sizes an octave, counts of scored
    tokens to one in two octaves, so that few programs are compiled.
    """

    def __init__(self, model: Model, mesh: Mesh, budget: int = BUDGET):
        self.model, self.mesh = model, mesh
        self.rows, self.steps = (model.layout.parts(axis) for axis in ("batch", "length"))
        self.budget = budget * self.rows

    def __call__(
        self,
        params: Params,
        requests: Sequence[Request],
        on_done: Callable[[int], object] | None = None,
    ) -> list[Scored]:
        """Score requests; `on_done` is called with how many more of them are done."""
        check(requests, self.model.cfg.vocab_size)
        done: dict[int, Scored] = {}
        ahead: tuple[list[int], tuple[jax.Array, jax.Array]] | None = None
        for batch in self.batches(requests):
            run = self._run(params, [requests[number] for number in batch.numbers], batch)
            if ahead is not None:
                self._take(*ahead, requests, done, on_done)
            ahead = batch.numbers, run
        if ahead is not None:
            self._take(*ahead, requests, done, on_done)
        return [done[number] for number in range(len(requests))]

    def batches(self, requests: Sequence[Request]) -> Iterator[ScoringBatch]:
        """Divide requests into batches, the long ones first, so that nothing surprises at the end.

        Rows that a batch has left go to shorter requests.
        """
        alike: dict[Shape, list[int]] = defaultdict(list)
        for number in sorted(range(len(requests)), key=lambda i: len(requests[i].tokens)):
            alike[self.shape(requests[number])].append(number)
        shapes = sorted(alike, reverse=True)
        for i, shape in enumerate(shapes):
            size = self.size(shape, len(alike[shape]))
            fitting = shapes[i:] if may_hold_shorter_texts(shape, self.model.cfg) else [shape]
            while alike[shape]:
                numbers: list[int] = []
                for smaller in fitting:
                    while alike[smaller] and len(numbers) < size and smaller.scored <= shape.scored:
                        numbers.append(alike[smaller].pop())
                yield ScoringBatch(shape, size, numbers)

    def shape(self, request: Request) -> Shape:
        scored = len(request.tokens) - request.given
        if request.given < 1 or scored < 1:
            raise ValueError(f"{request.given} tokens given, {scored} to score; one each at least")
        octaves = padded(len(request.tokens) - 1, least=32, halves=True)
        room = self.model.cfg.seq_length
        length = min(octaves, room) if len(request.tokens) - 1 <= room else octaves
        multiple = 2 * self.steps if self.steps > 1 else 1
        length = -(-length // multiple) * multiple
        positions = self.model.cfg.positions
        length = as_long_as_its_text(length, len(request.tokens) - 1, multiple, positions)
        count = 4
        while count < scored:
            count *= 4
        return Shape(length, min(count, length))

    def size(self, shape: Shape, count: int) -> int:
        """Return the rows of a batch of `count` requests of one shape.

        They are a power of two for each device.
        """
        most = 1
        while 2 * most * self.rows * shape.length <= self.budget and most * self.rows < count:
            most *= 2
        return most * self.rows

    def _run(
        self, params: Params, requests: Sequence[Request], batch: ScoringBatch
    ) -> tuple[jax.Array, jax.Array]:
        shape, size = batch.shape, batch.rows
        tokens = np.zeros((size, shape.length), np.int32)
        positions, labels = np.zeros((2, size, shape.scored), np.int32)
        for row, (ids, given) in enumerate(requests):
            tokens[row, : len(ids) - 1] = ids[:-1]
            positions[row, : len(ids) - given] = np.arange(given - 1, len(ids) - 1)
            labels[row, : len(ids) - given] = ids[given:]
        spec = NamedSharding(self.mesh, self.model.layout.activation("batch", None))
        with jax.set_mesh(self.mesh):
            laid = [jax.device_put(x, spec) for x in (tokens, positions, labels)]
            return self._scores(params, *laid)

    @cached_property
    def _scores(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def scores(params: Params, *arrays: jax.Array) -> tuple[jax.Array, ...]:
            everywhere = self.model.layout.activation(None, None)
            return tuple(jax.reshard(x, everywhere) for x in self.model.scores(params, *arrays))

        return jit_on(self.mesh, scores)

    def _take(
        self,
        numbers: Sequence[int],
        arrays: tuple[jax.Array, jax.Array],
        requests: Sequence[Request],
        done: dict[int, Scored],
        on_done: Callable[[int], object] | None,
    ) -> None:
        """Wait for a batch, and keep its scores."""
        logprobs, likeliest = map(np.asarray, arrays)
        for row, number in enumerate(numbers):
            count = len(requests[number].tokens) - requests[number].given
            done[number] = Scored(logprobs[row, :count], likeliest[row, :count])
        if on_done is not None:
            on_done(len(numbers))


def as_long_as_its_text(padded: int, length: int, multiple: int, cfg: PositionConfig) -> int:
    """Return the length of a row for a text: `padded`, unless padding would change its function.

    With dynamic rope scaling the function of all tokens depends on the length of their row, once
    that is beyond the original one.

    Raises:
        UserError: the mesh has no row of that length.
    """
    if not cfg.scaling.grows:
        return padded
    exact = min(padded, max(length, cfg.scaling.original_max_position_embeddings))
    if exact % multiple:
        raise UserError(
            f"a text of {length:,} tokens needs a row of {exact:,}, since its rotary embedding "
            f"(rope_scaling of type dynamic) depends on it, and the mesh has rows of multiples of "
            f"{multiple}: use a mesh without cp"
        )
    return exact


def may_hold_shorter_texts(shape: Shape, cfg: ModelConfig) -> bool:
    scaling = cfg.positions.scaling
    return not scaling.grows or shape.length <= scaling.original_max_position_embeddings


def no_number(logprob: float) -> str:
    """Explain a log-probability that is nan or infinite."""
    return (
        f"a token's log-probability is {logprob}: the model's numbers overflow, or its weights are "
        "damaged; try float32, or an earlier step"
    )


def check(requests: Sequence[Request], vocabulary: int) -> None:
    """Refuse a token without a row in the embedding, which would be taken for another.

    Raises:
        UserError: names the token.
    """
    for request in requests:
        if not 0 <= min(request.tokens) <= max(request.tokens) < vocabulary:
            wrong = next(token for token in request.tokens if not 0 <= token < vocabulary)
            raise UserError(
                f"token {wrong} is to be scored, and the model's vocabulary has {vocabulary:,}: "
                "the tokenizer is another model's; convert or train it with its own"
            )


def pair(tokenizer: Tokenizer, context: str, continuation: str, room: int) -> Request:
    """Make the request that lm-eval makes of two texts.

    White space at the end of the context goes to the continuation, whose tokens are those that both
    together have more than the context. An empty context is the token that begins every text, or
    the one that ends a document. What is too long for `room` loses its beginning.
    """
    if not continuation:
        raise UserError("a continuation is empty; expected text to score")
    check_text(context + continuation, "a text to score")
    given = context.rstrip()
    whole = tokenizer.encode(context + continuation)
    if not given:
        begin = tokenizer.eod if tokenizer.begin is None else tokenizer.begin
        if begin is None:
            raise UserError(
                "an empty context needs an end-of-document token: the tokenizer has none"
            )
        before, after = [begin], whole
        if whole[:1] == before and len(whole) > 1:
            after = whole[1:]
    else:
        before = tokenizer.encode(given)
        after = whole[len(before) :] or whole[-1:]
    tokens = [*before, *after][-(room + 1) :]
    return Request(tokens, max(1, len(tokens) - len(after)))


def padded(number: int, least: int, halves: bool = False) -> int:
    """Return the least `least * 2 ** n` that is not below `number`; with `halves`, or 3/4 of it."""
    size = least
    while size < number:
        size *= 2
    return size * 3 // 4 if halves and size > least and number <= size * 3 // 4 else size
