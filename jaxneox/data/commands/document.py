"""The command `inspect PREFIX --document N`: one document's tokens and text."""

import argparse
import json
import re
import textwrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.say import say
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.tokenizer import Tokenizer
from jaxneox.errors import UserError


def show(dataset: IndexedDataset, tokenizer: Tokenizer | None, args: argparse.Namespace) -> int:
    tokens = document_tokens(dataset, args.document)
    chosen = tokens[token_range(args.tokens)]
    learned = chosen[chosen >= 0]  # of labels: -100 is no token
    text = tokenizer.decode(learned.tolist()) if tokenizer else None
    if args.json:
        document = {"document": args.document, "tokens": chosen.tolist(), "text": text}
        say(json.dumps(document))
        return 0
    part = f", of which {args.tokens}" if args.tokens else ""
    say(f"{dataset.prefix.name}, document {args.document}: {len(tokens):,} tokens{part}")
    say(textwrap.fill(" ".join(map(str, chosen.tolist())), 100))
    if text is not None:
        say(f"\n{text}")
    return 0


def document_tokens(dataset: IndexedDataset, document: int) -> NDArray[Any]:
    """Read all sequences of a document, one after the other as they are in the `.bin`."""
    documents = len(dataset.doc_idx) - 1
    if not 0 <= document < documents:
        raise UserError(f"{dataset.prefix}: no document {document}, there are 0 to {documents - 1}")
    first, last = map(int, dataset.doc_idx[document : document + 2])
    if first == last:
        return np.empty(0, dataset.dtype)
    sequences = slice(first, last)
    begin = dataset.begins(slice(first, first + 1))
    (tokens,) = dataset.ranges(begin, [dataset.sizes[sequences].sum(dtype=np.int64)])
    return tokens


def token_range(given: str | None) -> slice:
    """Parse `A:B`, `A:` and `:B` as Python's slices of the tokens."""
    match = re.fullmatch(r"(\d*):(\d*)", given or ":")
    if not match:
        raise UserError(f"--tokens: {given!r}, expected A:B, such as 0:100")
    begin, end = (int(number) if number else None for number in match.groups())
    return slice(begin, end)
