"""The command `inspect PREFIX`: what is in a dataset, on one screen.

`--document N` shows what one document says, and `inspect RUN --step N` what a run saw at a step.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say
from jaxneox.data.commands import document, run_data, step, vocabulary
from jaxneox.data.commands.histogram import Bin, draw, draw_png, histogram
from jaxneox.data.commands.scan import (
    IGNORED,
    chunks,
    document_begins,
    label_dataset,
    likely_eod,
    survey,
)
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.tokenizer import Tokenizer
from jaxneox.errors import UserError

Figures = dict[str, Any]


def parser() -> Parser:
    p = Parser(
        "data inspect",
        "What is in a dataset: its size, the lengths of its documents, what they end with, the "
        "range of its tokens. With --document the tokens of one and, with a tokenizer, its text. "
        "With --step the documents and tokens that a run sees at this step.",
        [
            ("data/mine_text_document", "the whole dataset on one screen"),
            ("runs/mine --step 1200", "which documents a run saw at a step"),
        ],
    )
    p.add_argument("paths", nargs="+", metavar="PREFIX",
        help="a .bin/.idx pair, local or s3://, gs://, https://; with --step YAMLs or "
        "a run")  # fmt: skip
    what = p.add_argument_group("what to look at")
    what.add_argument("--document", type=int, metavar="N", help="only this one, counted from 0")
    what.add_argument("--tokens", metavar="A:B", help="only these of the document")
    what.add_argument("--step", type=int, metavar="N",
        help="a step of this run, counted from 1 as in its log")  # fmt: skip
    what.add_argument("--rows", metavar="A:B",
        help=f"only these of the step (default: 0:{step.SHOWN})")  # fmt: skip
    how = p.add_argument_group("how to show it")
    how.add_argument("--full", action="store_true", help="of a step the whole text of each row")
    how.add_argument("--json", action="store_true", help="the same as a JSON object")
    how.add_argument(
        "--png", type=pathlib.Path, metavar="FILE", help="draw the lengths into a file"
    )
    vocabulary.add_flags(p)
    run_data.add_options(p)
    return p


def run(args: argparse.Namespace) -> int:
    if args.step is not None:
        return step.show(args)
    if len(args.paths) > 1:
        raise UserError(f"{' '.join(args.paths)}: one dataset at a time, or --step N of a run")
    dataset = IndexedDataset(args.paths[0])
    tokenizer = vocabulary.tokenizer_from(args)
    if args.document is not None:
        return document.show(dataset, tokenizer, args)
    shown = figures(dataset, tokenizer)
    bins = [Bin(*one) for one in shown["lengths"]["histogram"]]
    if args.png:
        draw_png(bins, dataset.prefix.name, args.png)
    if args.json:
        say(json.dumps(shown))
    else:
        say(*[*page(shown), "", *draw(bins)])
    return 0


def figures(dataset: IndexedDataset, tokenizer: Tokenizer | None) -> Figures:
    """Collect all that the page says; lengths are those of documents that are not empty."""
    begins = document_begins(dataset)
    lengths = np.diff(begins)
    filled = lengths[lengths > 0]
    return {
        "bin": str(dataset.bin_path),
        "bin_bytes": dataset.bin_size,
        "idx": str(dataset.idx_path),
        "idx_bytes": dataset.idx_size,
        "dtype": dataset.dtype.name,
        "sequences": len(dataset),
        "documents": len(lengths),
        "documents_known": dataset.documents_known,
        "empty_documents": len(lengths) - len(filled),
        "tokens": dataset.total,
        "lengths": {
            "shortest": int(filled.min()) if filled.size else 0,
            "median": float(np.median(filled)) if filled.size else 0.0,
            "mean": float(filled.mean()) if filled.size else 0.0,
            "longest": int(filled.max()) if filled.size else 0,
            "histogram": [list(one) for one in histogram(filled)],
        },
        "ids": _ids(dataset, begins, tokenizer),
        "labels": _labels(dataset),
    }


def _ids(
    dataset: IndexedDataset, begins: NDArray[np.int64], tokenizer: Tokenizer | None
) -> Figures | None:
    """Find the range of the tokens and what ends a document; None if there are no tokens."""
    if dataset.dtype.kind == "f" or not dataset.total:
        return None
    eod = tokenizer.eod if tokenizer else likely_eod(dataset, begins)
    vocab_size = tokenizer.vocab_size if tokenizer else None
    tokens = survey(dataset, begins, eod=eod, vocab_size=vocab_size)
    ended = int(np.count_nonzero(np.diff(begins))) - tokens.unended.number
    return {
        "least": tokens.least,
        "greatest": tokens.greatest,
        "vocabulary": vocab_size,
        "outside": tokens.outside.number if tokenizer else None,
        "eod": eod,
        "ended_documents": None if eod is None else ended,
        "eod_inside": None if eod is None else tokens.eods - ended,
    }


def _labels(dataset: IndexedDataset) -> Figures | None:
    labels = label_dataset(dataset)
    if labels is None:
        return None
    masked = sum(int(np.count_nonzero(part == IGNORED)) for _, part in chunks(labels, "reading"))
    return {"bin": str(labels.bin_path), "tokens": labels.total, "masked": masked}


def page(shown: Figures) -> list[str]:
    """Write the lines above the picture."""
    documents = f"{shown['documents']:,}, {shown['empty_documents']:,} of them empty"
    if not shown["documents_known"]:
        documents += "; lost by NeoX's merge_datasets.py: each sequence counts as one"
    shape = "{shortest:,} shortest, {median:,.0f} median, {mean:,.1f} mean, {longest:,} longest"
    rows = [
        ("tokens in", f"{shown['bin']}, {in_bytes(shown['bin_bytes'])}"),
        ("index in", f"{shown['idx']}, {in_bytes(shown['idx_bytes'])}"),
        ("stored as", shown["dtype"]),
        ("documents", documents),
        ("sequences", f"{shown['sequences']:,}"),
        ("tokens", f"{shown['tokens']:,}"),
        ("lengths", shape.format(**shown["lengths"])),
        *_about_ids(shown),
    ]
    labels = shown["labels"]
    if labels:
        share = labels["masked"] / max(1, labels["tokens"])
        rows.append(("labels", f"{labels['bin']}, {share:.1%} of them masked"))
    return [f"{name:<10} {text}" for name, text in rows]


def _about_ids(shown: Figures) -> list[tuple[str, str]]:
    ids = shown["ids"]
    if ids is None:
        return (
            [("token ids", f"none, these are {shown['dtype']} numbers")] if shown["tokens"] else []
        )
    limits = f"{ids['least']:,} to {ids['greatest']:,}"
    if ids["vocabulary"]:
        limits += f", {ids['outside']:,} outside the vocabulary of {ids['vocabulary']:,}"
    if ids["eod"] is None:
        return [("token ids", limits), ("ends", "the documents have no common last token")]
    filled = shown["documents"] - shown["empty_documents"]
    ends = f"{ids['ended_documents']:,} of {filled:,} documents end with token {ids['eod']}"
    return [("token ids", limits), ("ends", f"{ends}; {ids['eod_inside']:,} more inside")]


def in_bytes(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:,.4g} TB"


main = entry_point(parser, run)
