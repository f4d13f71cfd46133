"""A file of conversations, prompts or texts as datasets: one to train on, one to look at."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.data import Tokenizer, documents
from jaxneox.data.tokenizer import saved_config
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.preprocess.chat import COMPLETION, CONVERSATIONS, PROMPT, ChatRecipe
from jaxneox.preprocess.encode import TEXT, UNSEEN, Encoder, Recipe, TextRecipe

TOKENIZER = "tokenizer.json"
PREFERENCES = ("chosen", "rejected")
SPLITS = ("train", "valid")


class Kind(NamedTuple):
    """What a file holds: the name of it, and the key that is read."""

    name: str
    key: str

    @property
    def is_chat(self) -> bool:
        """Whether a template renders it."""
        return self.key != TEXT


@dataclass
class Counts:
    """Of the documents of a split.

    Attributes:
        documents: how many there are.
        tokens: in all of them.
        learned: how many tokens have a loss.
        skipped: documents of which nothing would be learned.
        sizes: tokens of each document.
    """

    documents: int = 0
    tokens: int = 0
    learned: int = 0
    skipped: int = 0
    sizes: list[int] | None = None


def kind_of_data(files: Sequence[Path]) -> Kind:
    """Recognise what files hold by the keys of their first document.

    Raises:
        UserError: it is nothing that can be trained on.
    """
    there = documents.keys_of(files)
    for key in CONVERSATIONS:
        if key in there:
            return Kind("conversations", key)
    if all(key in there for key in PREFERENCES):
        raise UserError(
            f"{files[0]}: has chosen and rejected answers; preferences cannot be trained yet"
        )
    if PROMPT in there and COMPLETION in there:
        if "label" in there:
            raise UserError(
                f"{files[0]}: has prompts with labelled completions; preferences cannot be trained "
                "yet"
            )
        return Kind("prompts with completions", COMPLETION)
    if TEXT in there or not there:
        return Kind("texts", TEXT)
    raise UserError(
        f"{files[0]}: has the keys {', '.join(there)}, expected {' or '.join(CONVERSATIONS)}, "
        f"{PROMPT} with {COMPLETION}, or {TEXT}"
    )


def recipe_of(kind: Kind, tokenizer: Tokenizer, folder: Path, template: Path | None) -> Recipe:
    """Say how documents become tokens and labels.

    Args:
        kind: of the documents.
        tokenizer: the model's.
        folder: where it lies.
        template: in place of the tokenizer's own.

    Raises:
        UserError: conversations need a Hugging Face tokenizer, and the model has another.
    """
    if not kind.is_chat:
        return TextRecipe(tokenizer=saved_config(folder), append_eod=tokenizer.eod is not None)
    if not (folder / TOKENIZER).is_file():
        raise UserError(
            f"{folder}: {kind.name} are rendered by a chat template, which needs a tokenizer.json; "
            "the model has another tokenizer, and can be tuned on texts"
        )
    pair, eos = kind.key == COMPLETION, tokenizer.eod
    return ChatRecipe(
        folder=folder,
        template=template,
        keys=(kind.key,),
        pair=pair,
        eos=None if eos is None else tokenizer.text_of(eos),
    )


def prepare(
    encoder: Encoder,
    columns: Sequence[str],
    files: Sequence[Path],
    folder: Path,
    held_out: float,
    seed: int,
) -> dict[str, Counts]:
    """Write the datasets of both splits, and their labels where documents have some.

    Args:
        encoder: makes tokens of documents, and labels.
        columns: of tables, that are read.
        files: the documents.
        folder: where the datasets go, `{train,valid}_document` and `…_label_document`.
        held_out: the share of the documents that is not trained on.
        seed: decides which.

    Raises:
        UserError: a document cannot be used, or there is nothing to learn.
    """  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    counts = {split: Counts(sizes=[]) for split in SPLITS}
    chance = np.random.default_rng(seed)
    masked = len(encoder.dtypes) > 1
    with ExitStack() as stack:
        writers = {
            split: [
                stack.enter_context(IndexedWriter(folder / name, np.int32))
                for name in names_of(split, masked)
            ]
            for split in SPLITS
        }
        for row in rows(encoder, columns, files):
            split = "valid" if chance.random() < held_out else "train"
            count = counts[split]
            learned = int(np.sum(row[1] != UNSEEN)) if masked else len(row[0])
            if not learned:
                count.skipped += 1
                continue
            for writer, values in zip(writers[split], row, strict=True):
                writer.add(values)
            count.documents += 1
            count.tokens += len(row[0])
            count.learned += learned
            assert count.sizes is not None
            count.sizes.append(len(row[0]))
        for split, count in counts.items():
            if not count.documents:
                share = "" if split == "train" else "; give more, or --hold-out 0.5"
                raise UserError(f"{files[0]}: there are no documents to {PURPOSES[split]}{share}")
    return counts


PURPOSES = {"train": "train on", "valid": "hold out"}


def names_of(split: str, masked: bool) -> list[str]:
    """Name the datasets of a split: tokens, and labels if there are any."""
    return [f"{split}_document", *([f"{split}_label_document"] if masked else [])]


def rows(
    encoder: Encoder, columns: Sequence[str], files: Sequence[Path]
) -> Iterator[tuple[NDArray[np.int32], ...]]:
    """Yield each document's tokens, and its labels if it has some."""
    for chunk in documents.chunks(files, columns):
        encoded = encoder.encode(chunk)
        each = []
        for (tokens, sizes), dtype in zip(encoded.rows, encoder.dtypes.values(), strict=True):
            values = np.frombuffer(tokens, dtype.newbyteorder("<")).astype(np.int32)
            ends = np.cumsum(np.frombuffer(sizes, "<i4"))[:-1]
            each.append(np.split(values, ends) if len(sizes) else [])
        yield from zip(*each, strict=True)
