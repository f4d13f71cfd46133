"""The functions of two checkpoints, followed through their layers in step."""
# R ranks, B batch, T length, D hidden, V padded vocabulary

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np

from convert.checkpoint import Checkpoint
from convert.oracle import Forward
from convert.parts import Part
from convert.proof.logits import Totals
from convert.proof.numbers import NumberComparison
from convert.proof.result import LayerError, Proof
from convert.proof.sides import ProofSide, ResidualStream, at_once
from jaxneox.config.schema import ModelConfig

PROBE = 64  # random hidden states for each layer

ROWS = 1024  # of the vocabulary, in float64 at a time

AT_ONCE = 1 << 24
"""The number of one function's logits held in memory at once, 128 MB in float64."""


class Following:
    """Two checkpoints and further functions, followed part by part.

    Args:
        proof: collects what is found.
        both: the source and the target.
        others: further functions by title.
        tokens_BT: int [B, T], the text.
        rounded: whether to measure what rounding costs the target.
    """

    def __init__(
        self,
        proof: Proof,
        both: tuple[Checkpoint, Checkpoint],
        others: Mapping[str, Forward],
        tokens_BT: np.ndarray,
        rounded: bool,
    ) -> None:
        self._proof, self._both, self._tokens_BT = proof, both, tokens_BT
        self._model = both[1].model
        T, D = tokens_BT.shape[1], self._model.hidden_size
        self._probe_BTD = np.random.default_rng(0).standard_normal((1, min(T, PROBE), D))
        self._titles = ["the source", "the converted model", *others]
        self._others, self._rounded = others, rounded

    def follow(
        self, numbers: NumberComparison, step: Callable[[], None]
    ) -> tuple[np.ndarray, float]:
        """Follow every function through its layers in step, reading one part at a time.

        Args:
            numbers: compares the parameters.
            step: called after each part.

        Returns:
            The target's logits of the first sequences, and the relative distance by which rounding
            its stream to float32 after every layer moves those of the first: the cost of float32
            for a model so conditioned; 0 if that is not measured.
        """
        proof = self._proof
        self._compare(numbers, "embedding")
        rows = list(embedded_rows([one.forward for one in self._both], self._model))
        source, target = at_once(self._side(number) for number in range(2))
        others = at_once(partial(ResidualStream, f, self._tokens_BT) for f in self._others.values())
        streams = [source, target, *others]
        self._layer("the embedding", float(np.max(rows)), streams)
        step()
        for layer in range(self._model.num_layers):
            (theirs, a), (ours, b) = at_once(partial(s.probed, layer) for s in (source, target))
            numbers.compare(proof, layer, theirs, ours)
            at_once(partial(other.layer, layer) for other in others)
            self._layer(f"layer {layer}", distance(a, b), streams)
            step()
        self._compare(numbers, "head")
        (a_BTV,), (b_BTV, *rounded) = at_once((source.head, target.head))
        totals, first = compare_logits(self._titles, streams, self._tokens_BT)
        last = "the reward head" if self._model.head == "reward" else "the unembedding"
        proof.layers.append(LayerError(last, worst_column(a_BTV, b_BTV), totals.relative(1)))
        proof.perplexity, proof.tokens = totals.perplexity(), self._tokens_BT.size
        proof.logits = [totals.comparison(n) for n in range(1, len(self._titles))]
        step()
        return first, max((distance(first[None, :1], x[None]) for x in rounded), default=0.0)

    def _side(self, number: int) -> Callable[[], ProofSide]:
        rounded = self._rounded and number == 1
        checkpoint = self._both[number]
        return partial(ProofSide, checkpoint, self._tokens_BT, self._probe_BTD, rounded=rounded)

    def _compare(self, numbers: NumberComparison, part: Part) -> None:
        """Compare the parameters of a part outside of the layers."""
        numbers.compare(self._proof, part, *at_once(partial(c.leaves, part) for c in self._both))

    def _layer(self, name: str, random: float, streams: Sequence[ResidualStream]) -> None:
        apart = distance(*(stream.text_RBTD for stream in streams[:2]))
        self._proof.layers.append(LayerError(name, random, apart))


def compare_logits(
    titles: list[str], streams: Sequence[ResidualStream], tokens_BT: np.ndarray
) -> tuple[Totals, np.ndarray]:
    """Compare the logits; also return the target's for as many sequences as fit at once."""
    some = max(1, AT_ONCE // (tokens_BT.shape[1] * streams[0].forward.vocab))
    totals, first = Totals(titles), np.zeros(0)
    for start in range(0, len(tokens_BT), some):
        part = slice(start, start + some)
        logits = at_once(partial(s.forward.logits, s.text_RBTD[:, part]) for s in streams)
        totals.add(logits, tokens_BT[part])
        first = logits[1] if start == 0 else first
    return totals, first


def embedded_rows(both: list[Forward], model: ModelConfig) -> Iterator[float]:
    """Yield the error of every vocabulary row and every position, a thousand at a time."""
    T = model.positions.max_positions - model.positions.offset
    T = T if model.positions.kind == "learned" else min(64, model.vocab_size)
    rows = -(-model.vocab_size // T)
    tokens_BT = np.minimum(np.arange(rows * T), model.vocab_size - 1).reshape(rows, T)
    for start in range(0, rows, some := max(1, ROWS // T)):
        part_BT = tokens_BT[start : start + some]
        yield distance(*at_once(partial(forward.embed, part_BT) for forward in both))


def distance(a_RX: np.ndarray, b_RX: np.ndarray) -> float:
    """Return the relative L2 distance of the two ranks that are furthest apart."""
    pairs = product(without_repetition(a_RX), without_repetition(b_RX))
    off = [np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0) for a, b in pairs]
    return float(np.max(off))  # a NaN stays one


def without_repetition(x_RX: np.ndarray) -> np.ndarray:
    """Return one of ranks that all have the very same array."""
    return x_RX[:1] if x_RX.strides[0] == 0 else x_RX


def worst_column(a_BTV: np.ndarray, b_BTV: np.ndarray) -> float:
    """Return the largest error of a vocabulary row; a mean over so many rows would hide it."""
    wrong_V, size_V = (np.sqrt((x * x).mean(axis=(0, 1))) for x in (a_BTV - b_BTV, a_BTV))
    return float((wrong_V / max(float(size_V.mean()), 1e-300)).max())
