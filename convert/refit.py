"""A checkpoint in the form that another program requires, with the same function.

The vocabulary may get fewer rows, or further rows of zeros; and a bias that the other checkpoint
has and this one lacks becomes a bias of zeros.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from convert.checkpoint import Checkpoint, Fidelity
from convert.oracle import Forward
from convert.parts import STACKED, Shapes
from jaxneox.config.schema import AttentionConfig, ModelConfig
from jaxneox.data import Tokenizer

VOCABULARY_AXIS = {"embed.tokens": 0, "unembed.weight": 1, "unembed.bias": 0}


def refitted(model: ModelConfig, other: ModelConfig) -> ModelConfig:
    """Return `model` with the vocabulary size of `other` and with every bias that `other` has."""
    return replace(
        model,
        vocab_size=other.vocab_size,
        attention=with_biases_of(model.attention, other.attention),
        mlp=replace(model.mlp, bias=model.mlp.bias or other.mlp.bias),
        norm=replace(model.norm, bias=model.norm.bias or other.norm.bias),
    )


def with_biases_of(attention: AttentionConfig, other: AttentionConfig) -> AttentionConfig:
    if not other.bias:
        return attention
    output = attention.biased_output or other.biased_output
    return replace(attention, bias=True, output_bias=output)


def fit_rows(name: str, leaf: np.ndarray, rows: int) -> np.ndarray:
    """Cut a parameter to `rows` rows of the vocabulary, or pad it with rows of zeros."""
    if name not in VOCABULARY_AXIS or leaf.shape[VOCABULARY_AXIS[name]] == rows:
        return leaf
    axis = VOCABULARY_AXIS[name]
    kept = leaf[(slice(None),) * axis + (slice(rows),)]
    more = [(0, 0)] * leaf.ndim
    more[axis] = (0, rows - kept.shape[axis])
    return np.pad(kept, more)


def more_rows(rows: int, needed: int, why: str) -> str:
    """Say that a vocabulary of `rows` was padded to the rows that are needed, and why."""
    return (
        f"{needed - rows} rows of zeros were added to the vocabulary's {rows}, {why}: their logits "
        "are 0, which a softmax over all rows sees"
    )


def rows_shape(name: str, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    axis = VOCABULARY_AXIS.get(name)
    return shape if axis is None else (*shape[:axis], rows, *shape[axis + 1 :])


class View(Checkpoint):
    """The checkpoint `source` with its parameters in another form; all else is the source's."""

    def __init__(self, source: Checkpoint, model: ModelConfig, shapes: Shapes) -> None:
        self._source, self.model, self.shapes = source, model, shapes
        self.conversion = source.conversion

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._source.tokenizer

    @property
    def forward(self) -> Forward:
        return self._source.forward

    @property
    def fidelity(self) -> Fidelity:
        return self._source.fidelity

    @property
    def alternatives(self) -> Mapping[str, Forward]:
        return self._source.alternatives

    @property
    def older_merges(self) -> Mapping[str, Callable[[], Forward]]:
        return self._source.older_merges


class Refitted(View):
    """A view with the rows of the vocabulary and the biases of `other`."""

    def __init__(self, source: Checkpoint, other: Checkpoint) -> None:
        model = refitted(source.model, other.model)
        same = {n: rows_shape(n, shape, model.vocab_size) for n, shape in source.shapes.items()}
        zeros = {n: s for n, s in other.shapes.items() if n.endswith("bias") and n not in same}
        super().__init__(source, model, same | zeros)

    def dtype(self, name: str) -> np.dtype:
        return self._source.dtype(name if name in self._source.shapes else "embed.tokens")

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        if name not in self._source.shapes:
            stacked = name.startswith(STACKED) and layer is not None
            return np.zeros(self.shapes[name][stacked:], self.dtype(name))
        return fit_rows(name, self._source.leaf(name, layer), self.model.vocab_size)

    @property
    def forward(self) -> Forward:
        return self._with_rows(self._source.forward)

    @property
    def alternatives(self) -> Mapping[str, Forward]:
        others = self._source.alternatives.items()
        return {title: self._with_rows(forward) for title, forward in others}

    @property
    def older_merges(self) -> Mapping[str, Callable[[], Forward]]:
        def fitted(forward: Callable[[], Forward]) -> Forward:
            return self._with_rows(forward())

        merges = self._source.older_merges.items()
        return {title: partial(fitted, forward) for title, forward in merges}

    def _with_rows(self, forward: Forward) -> Forward:
        words = partial(self._source.leaf, "embed.tokens")
        return WithRows(forward, words, self.model.vocab_size)


class Unshared(View):
    """A view whose one norm for both branches (gpt_j_tied) is there twice."""

    def __init__(self, source: Checkpoint) -> None:
        twice = {name_of_second_norm(name): shape for name, shape in source.shapes.items()}
        model = replace(source.model, shared_norm=False)
        super().__init__(source, model, {**source.shapes, **twice})

    def dtype(self, name: str) -> np.dtype:
        return self._source.dtype(name_when_shared(name))

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        return self._source.leaf(name_when_shared(name), layer)


class WithRows:
    """A function with another vocabulary size: rows, and their logits, are cut off or are zeros.

    Args:
        forward: the function.
        words: returns the embedding rows [V, D] of the function.
        rows: the new vocabulary size.
    """

    def __init__(self, forward: Forward, words: Callable[[], np.ndarray], rows: int) -> None:
        self._forward, self._words, self.vocab = forward, words, rows
        self.layers, self.hidden = forward.layers, forward.hidden

    def embed(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Embed tokens; a row of zeros still gets what is added to words, such as positions."""
        beyond_BT = tokens_BT >= self._forward.vocab
        streams_RBTD = self._forward.embed(np.where(beyond_BT, 0, tokens_BT))
        if beyond_BT.any():
            first_D = self._words()[0].astype(np.float64)
            streams_RBTD = streams_RBTD - first_D * beyond_BT[..., None]
        return streams_RBTD

    def layer(self, index: int, streams_RBTD: np.ndarray) -> np.ndarray:
        return self._forward.layer(index, streams_RBTD)

    def logits(self, streams_RBTD: np.ndarray) -> np.ndarray:
        logits_BTV = self._forward.logits(streams_RBTD)[..., : self.vocab]
        more = self.vocab - logits_BTV.shape[-1]
        return np.pad(logits_BTV, [(0, 0), (0, 0), (0, more)]) if more else logits_BTV


def name_when_shared(name: str) -> str:
    return name.replace(".norm2.", ".norm1.")


def name_of_second_norm(name: str) -> str:
    return name.replace(".norm1.", ".norm2.")


def as_other(source: Checkpoint, other: Checkpoint) -> Checkpoint:
    """Return the source with the parameters that `other` needs for the same function."""
    if refitted(source.model, other.model) != source.model:
        source = Refitted(source, other)
    if source.model.shared_norm and not other.model.shared_norm:
        source = Unshared(source)
    return source
