"""Turns chunks of documents into tokens, and into the labels of a masked dataset.

What a token sequence is follows NeoX's tools/datasets/preprocess_data.py and
preprocess_data_with_mask.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.documents import Chunk, Record, text_of
from jaxneox.data.indexed import token_dtype
from jaxneox.data.tokenizer import build_tokenizer
from jaxneox.errors import UserError

UNSEEN = -100  # the label of a token that is not learned
LABEL, TEXT = "label", "text"

Document = tuple[NDArray[Any], ...]  # tokens [n], one array for each dataset


@dataclass(frozen=True)
class Encoded:
    """A chunk as it goes to disk.

    Attributes:
        read: bytes of input that it came from.
        documents: how many there are.
        rows: for each dataset the tokens, and their int32 sizes.
        counts: what is counted over all chunks, by name. The tokens of a dataset that is named here
            are numbers from 0 on in each chunk, so that the count of all chunks before is added.
    """

    read: int
    documents: int
    rows: tuple[tuple[bytes, bytes], ...]
    counts: Mapping[str, int] = field(default_factory=dict)


class Encoder(Protocol):
    """Encodes chunks.

    Attributes:
        dtypes: of each dataset, by name.
        identity: all that the tokens depend on, as JSON.
        notes: what a user should know of the tokenizer, a line each.
    """

    dtypes: dict[str, np.dtype[Any]]
    identity: dict[str, Any]
    notes: tuple[str, ...]

    def encode(self, chunk: Chunk) -> Encoded: ...


class Recipe(Protocol):
    """Settings that can be sent to a worker, which makes its encoder of them."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that become datasets; empty until it is known which the input has."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of tables that are read."""

    def build(self) -> Encoder: ...


@dataclass(frozen=True)
class TextRecipe:
    """Settings for keys of a document that each become a dataset.

    With `mask_before` the one key gets labels.
    """

    tokenizer: TokenizerConfig
    keys: tuple[str, ...] = (TEXT,)
    append_eod: bool = False
    ftfy: bool = False
    mask_before: tuple[int, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.keys

    def build(self) -> "TextEncoder":
        return TextEncoder(self)


class TextEncoder:
    """Encodes the texts of documents."""

    def __init__(self, recipe: TextRecipe) -> None:
        self.recipe = recipe
        self._tokenizer = build_tokenizer(recipe.tokenizer)
        self.notes = self._tokenizer.notes
        if recipe.append_eod and self._tokenizer.eod is None:
            raise UserError(
                f"--append-eod: {self._tokenizer.name} has no <|endoftext|> token, and no "
                "eos_token in a tokenizer_config.json beside it; name another with --eod-token, "
                "such as </s>"
            )
        self._end = np.int32(self._tokenizer.eod or 0) if recipe.append_eod else None
        dtype = token_dtype(self._tokenizer.vocab_size)
        self.dtypes = dict.fromkeys(recipe.keys, dtype)
        if recipe.mask_before:
            if len(recipe.keys) != 1 or LABEL in recipe.keys:
                raise UserError("--mask-before-token: labels are made of one key, not 'label'")
            self.dtypes = dict.fromkeys((*recipe.keys, LABEL), np.dtype(np.int32))
        self._fixed = ftfy_fix() if recipe.ftfy else str
        self.identity = {
            "tokenizer": self._tokenizer.fingerprint(),
            "keys": list(recipe.keys),
            "append_eod": recipe.append_eod,
            "ftfy": recipe.ftfy,
            "mask_before": list(recipe.mask_before),
        }

    def encode(self, chunk: Chunk) -> Encoded:
        every = ((record[0], self._texts(record)) for record in chunk.records())
        texts = [(where, row) for where, row in every if all(row)]  # else it is no document
        wheres = [where for where, _ in texts]
        columns = [
            self._tokenizer.encode_batch(column, wheres)
            for column in zip(*(row for _, row in texts), strict=True)
        ]
        rows = [ids for ids in zip(*columns, strict=True) if all(map(len, ids))]
        return packed(chunk.read, list(map(self._document, rows)), self.dtypes)

    def _texts(self, record: Record) -> list[str]:
        return [self._fixed(text_of(record, key)) for key in self.recipe.keys]

    def _document(self, ids: Document) -> Document:
        if self._end is not None:
            ids = tuple(np.append(one, self._end) for one in ids)
        if self.recipe.mask_before:
            ids = (*ids, masked(ids[0], self.recipe.mask_before))
        return ids


def masked(tokens: NDArray[Any], pattern: Sequence[int]) -> NDArray[Any]:
    """Make the labels: UNSEEN up to and with the first `pattern`; all is learned without one."""
    if len(tokens) < len(pattern):
        return tokens
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(pattern))
    matches = np.flatnonzero((windows == np.asarray(pattern)).all(axis=1))
    labels = tokens.copy()
    if matches.size:
        labels[: matches[0] + len(pattern)] = UNSEEN
    return labels


def packed(
    read: int,
    documents: Sequence[Document],
    dtypes: dict[str, np.dtype[Any]],
    counts: Mapping[str, int] | None = None,
) -> Encoded:
    rows = []
    for index, (name, dtype) in enumerate(dtypes.items()):
        column = [document[index] for document in documents]
        tokens = np.concatenate(column) if column else np.zeros(0, dtype)
        whole = np.issubdtype(dtype, np.integer)
        if whole and tokens.size and tokens.max() > np.iinfo(dtype).max:
            raise UserError(
                f"{name}: token {tokens.max()} does not fit {dtype}, which is chosen by the size "
                "of the vocabulary; its tokenizer has ids beyond its size"
            )
        sizes = np.fromiter(map(len, column), "<i4", len(column))
        rows.append((tokens.astype(dtype.newbyteorder("<")).tobytes(), sizes.tobytes()))
    return Encoded(read, len(documents), tuple(rows), counts or {})


def ftfy_fix() -> Any:
    try:
        import ftfy
    except ImportError as error:
        raise UserError("--ftfy needs `pip install ftfy`") from error
    return ftfy.fix_text
