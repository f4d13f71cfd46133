"""Proof that two checkpoints compute the same, by their settings, numbers and functions.

Both functions are followed layer by layer in float64, on random hidden states, which show a layer's
error whatever comes before it, and on a text, which shows how errors propagate. Where no number was
rounded they agree to float64's own rounding, so that a change of one weight by one part in a
hundred stands out in a model of any size.
"""
# R ranks, B batch, T length, D hidden, V padded vocabulary

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from convert.checkpoint import Checkpoint, Logits
from convert.oracle import Forward
from convert.proof.architectures import settings_that_differ
from convert.proof.logits import Comparison, Totals
from convert.proof.numbers import differing
from convert.proof.program import limit
from jaxneox.config.schema import ModelConfig

EXACT = 1e-11
"""Relative tolerance: float64 rounds at 1e-16, and sums of some 1e4 terms in another order come
near it."""

ROOM = 100
"""A layer in float32 rounds in some ten places where rounding its result does in one, and attention
scores of hundreds, as random weights have, amplify the rounding: 35 was measured on such a model of
24 layers of 2048, and 9 and 15 on trained ones."""

PROBE = 16  # random hidden states for each layer

AT_ONCE = 1 << 24
"""The number of one function's logits held in memory at once, 128 MB in float64."""


@dataclass(frozen=True)
class LayerError:
    """Relative L2 distances of one layer.

    These are the distance of what the layer adds to random states, and of the text's stream after
    it.
    """

    name: str
    random: float
    stream: float


@dataclass
class Proof:
    """The result of a comparison; `failures` is empty if both compute the same within `tolerance`.

    Attributes:
        different: a line for each parameter whose numbers differ.
        unexplained: failures that a merge which loses the function does not account for.
    """

    tolerance: float
    perplexity: float | None = float("nan")  # the source's; None of a reward model
    tokens: int = 0
    elements: int = 0
    different: list[str] = field(default_factory=list)
    layers: list[LayerError] = field(default_factory=list)
    logits: list[Comparison] = field(default_factory=list)
    program: float | str = "not run"  # the running program's logits: relative L2 distance
    failures: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.failures


def prove(
    source: Checkpoint,
    target: Checkpoint,
    tokens_BT: np.ndarray,
    tolerance: float = EXACT,
    *,
    program: Logits | str = "not run",
    step: Callable[[], None] = lambda: None,
    folded: bool = False,
) -> Proof:
    """Compare `target` and the source's other functions with `source`; only `target` must agree.

    Args:
        source: the checkpoint to compare with.
        target: the checkpoint to be proved.
        tokens_BT: int [B, T], a text whose logits are compared from end to end.
        tolerance: the tolerated relative error of a layer.
        program: what a user runs, which is compared with the target as well, or why it is not
            run.
        step: called after each part.
        folded: whether norms were folded, so that different numbers may have the same function.
    """
    proof = Proof(tolerance)
    settings = settings_that_differ(source.model, target.model)
    if dict(source.shapes) != dict(target.shapes):
        proof.failures = settings or ["the two have different parameters"]
        proof.unexplained = list(proof.failures)
        return proof
    for compared in differing(source, target, folded):
        proof.elements += compared.elements
        proof.different += compared.differences
        step()
    functions = {"the source": source.forward, "the converted model": target.forward}
    logits, rounding_error = follow(
        proof, functions | dict(source.alternatives), target.model, tokens_BT, step
    )
    allowed = max(limit(target.model), ROOM * rounding_error)
    run_program(proof, allowed, program, logits, tokens_BT[: len(logits)])
    proof.unexplained = settings + proof.different + proof.failures
    proof.failures = proof.unexplained + [
        f"{e.name}: off by {e.random:.1e} of what it adds, the limit is {tolerance:.0e}"
        for e in proof.layers
        if not e.random <= tolerance
    ]
    return proof


def run_program(
    proof: Proof, allowed: float, program: Logits | str, logits: np.ndarray, tokens_BT: np.ndarray
) -> None:
    """Compare the program in float32 with the target's own function in float64."""
    if isinstance(program, str):
        proof.program = program
        return
    proof.program = distance(logits[None], program(tokens_BT)[None])
    if not proof.program <= allowed:
        proof.failures.append(
            f"the running program: its logits are off by {proof.program:.1e}, the limit of "
            f"float32 here is {allowed:.0e}"
        )


def follow(
    proof: Proof,
    functions: dict[str, Forward],
    model: ModelConfig,
    tokens_BT: np.ndarray,
    step: Callable[[], None],
) -> tuple[np.ndarray, float]:
    """Follow every function through its layers in step, reading one layer's weights at a time.

    Args:
        proof: collects each layer's error.
        functions: the functions by title: the source, the target, and any others.
        model: the target's configuration.
        tokens_BT: int [B, T], the text.
        step: called after each layer.

    Returns:
        The target's logits of the first sequences, and the relative distance by which rounding
        its stream to float32 after every layer moves them: the cost of float32 for a model so
        conditioned.
    """
    titles, forwards = [*functions, "the target, rounded"], [*functions.values()]
    both, forwards = forwards[:2], [*forwards, forwards[1]]
    T, D = tokens_BT.shape[1], model.hidden_size
    probe_BTD = np.random.default_rng(0).standard_normal((1, min(T, PROBE), D))
    rows = list(embedded_rows(both, model))
    streams = [forward.embed(tokens_BT) for forward in forwards]
    probes = [np.broadcast_to(probe_BTD, (len(s), *probe_BTD.shape)) for s in streams[:2]]
    proof.layers.append(LayerError("the embedding", float(np.max(rows)), distance(*streams[:2])))
    for layer in range(model.num_layers):
        added = [f.layer(layer, p) - probe_BTD for f, p in zip(both, probes, strict=True)]
        streams = [f.layer(layer, x) for f, x in zip(forwards, streams, strict=True)]
        streams[-1] = streams[-1].astype(np.float32).astype(np.float64)
        error = LayerError(f"layer {layer}", distance(*added), distance(*streams[:2]))
        proof.layers.append(error)
        step()
    heads = [forward.logits(probe) for forward, probe in zip(both, probes, strict=True)]
    totals, first = compare_logits(titles, forwards, streams, tokens_BT)
    last = "the reward head" if model.head == "reward" else "the unembedding"
    error = LayerError(last, worst_column(*heads), totals.relative(1))
    proof.layers.append(error)
    proof.perplexity, proof.tokens = totals.perplexity(), tokens_BT.size
    proof.logits = [totals.comparison(number) for number in range(1, len(functions))]
    return first, totals.rounding_error()


def compare_logits(
    titles: list[str], forwards: list[Forward], streams: list[np.ndarray], tokens_BT: np.ndarray
) -> tuple[Totals, np.ndarray]:
    """Compare the logits; also return the target's for as many sequences as fit at once."""
    some = max(1, AT_ONCE // (tokens_BT.shape[1] * forwards[0].vocab))
    totals, first = Totals(titles), np.zeros(0)
    for start in range(0, len(tokens_BT), some):
        part = slice(start, start + some)
        logits = [f.logits(stream[:, part]) for f, stream in zip(forwards, streams, strict=True)]
        totals.add(logits, tokens_BT[part])
        first = logits[1] if start == 0 else first
    return totals, first


def embedded_rows(both: list[Forward], model: ModelConfig) -> Iterator[float]:
    """Yield the error of every vocabulary row and every position, a few thousand at a time."""
    T = model.positions.max_positions - model.positions.offset
    T = T if model.positions.kind == "learned" else min(64, model.vocab_size)
    rows = -(-model.vocab_size // T)
    tokens_BT = np.minimum(np.arange(rows * T), model.vocab_size - 1).reshape(rows, T)
    for start in range(0, rows, some := max(1, 4096 // T)):
        a, b = (forward.embed(tokens_BT[start : start + some]) for forward in both)
        yield distance(a, b)


def distance(a_RX: np.ndarray, b_RX: np.ndarray) -> float:
    """Return the relative L2 distance of the two ranks that are furthest apart."""
    off = [np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0) for a in a_RX for b in b_RX]
    return float(np.max(off))  # a NaN stays one


def worst_column(a_BTV: np.ndarray, b_BTV: np.ndarray) -> float:
    """Return the largest error of a vocabulary row; a mean over so many rows would hide it."""
    wrong_V, size_V = (np.sqrt((x * x).mean(axis=(0, 1))) for x in (a_BTV - b_BTV, a_BTV))
    return float((wrong_V / max(float(size_V.mean()), 1e-300)).max())
