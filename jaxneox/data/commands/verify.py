"""The command `verify PREFIX…`: whether datasets are whole and within their vocabulary."""

import argparse
import pathlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.progress import LARGE, progress
from jaxneox.console.say import say
from jaxneox.data.commands import vocabulary
from jaxneox.data.commands.scan import (
    IGNORED,
    Count,
    chunks,
    document_begins,
    is_label,
    label_dataset,
    survey,
)
from jaxneox.data.indexed import IndexedDataset, dataset_prefix
from jaxneox.data.sha256 import checksum_path, file_sha256, read_checksums, write_checksums
from jaxneox.errors import UserError


@dataclass
class Verification:
    """The checks that were made, and what is wrong: a line each."""

    checked: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary's size and end-of-document token; each is None if it is not known."""

    size: int | None = None
    eod: int | None = None


def parser() -> Parser:
    p = Parser(
        "data verify",
        "Hold the files of datasets against each other and against PREFIX.sha256; with a tokenizer "
        "also their tokens and the ends of the documents; labels against their text. Every finding "
        "is a line, and the exit status is 1 where there is one.",
        [
            ("data/mine_text_document", "whether the pair of files is whole"),
            ("data/*.idx --vocab-size 50277 --write-checksums", "many, and their tokens as well"),
        ],
    )
    p.add_argument("prefixes", nargs="+", metavar="PREFIX",
        help="a .bin/.idx pair, local or behind a URL")  # fmt: skip
    what = p.add_argument_group("what to check")
    what.add_argument("--vocab-size", type=int, metavar="N",
        help="every token must be below it, instead of the tokenizer's")  # fmt: skip
    what.add_argument("--write-checksums", action="store_true",
        help="write PREFIX.sha256 where all is well")  # fmt: skip
    vocabulary.add_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    tokenizer = vocabulary.tokenizer_from(args)
    known = Vocabulary(args.vocab_size)
    if tokenizer:
        known = Vocabulary(args.vocab_size or tokenizer.rows, tokenizer.eod)
    status = 0
    for prefix in args.prefixes:
        if args.write_checksums:
            dataset_prefix(prefix)  # a UserError for a URL, before all the work
        report = verify(prefix, known)
        if report.findings:
            status = 1
        elif args.write_checksums and not checksum_path(dataset_prefix(prefix)).is_file():
            write_checksums(dataset_prefix(prefix), digests(IndexedDataset(prefix)))
        lines = report.findings or [f"{prefix}: all is well: {', '.join(report.checked)}"]
        say(*(line.replace("\n", " ") for line in lines))
    return status


def verify(prefix: str, known: Vocabulary) -> Verification:
    """Make all checks of one dataset; after an index that is wrong no other makes sense."""
    report = Verification()
    try:
        dataset = IndexedDataset(prefix)
        report.checked.append(f"{len(dataset):,} sequences of {dataset.total:,} tokens")
        check_checksums(dataset, report)
        check_tokens(dataset, known, report)
        check_labels(dataset, report)
    except UserError as error:
        report.findings.append(str(error))
    return report


def check_checksums(dataset: IndexedDataset, report: Verification) -> None:
    if not isinstance(dataset.prefix, pathlib.Path):
        return
    expected = read_checksums(dataset.prefix)
    if expected is None:
        return
    report.checked.append("checksums")
    where = checksum_path(dataset.prefix).name
    for name, digest in digests(dataset).items():
        if name not in expected:
            report.findings.append(f"{where}: has no line for {name}")
        elif digest != expected[name]:
            report.findings.append(
                f"{dataset.prefix.with_name(name)}: SHA-256 {digest}, expected "
                f"{expected[name]} of {where}: its content has changed"
            )


def digests(dataset: IndexedDataset) -> dict[str, str]:
    """Compute the SHA-256 of the files of a local dataset, by their names."""
    with progress(
        f"hashing {dataset.prefix.name}", dataset.bin_size + dataset.idx_size, at_least=LARGE
    ) as advance:
        return {
            path.name: file_sha256(path, advance)
            for path in (dataset.bin_path, dataset.idx_path)
            if isinstance(path, pathlib.Path)
        }


def check_tokens(dataset: IndexedDataset, known: Vocabulary, report: Verification) -> None:
    """Check that tokens are in the vocabulary, and that a token ends each document."""
    if dataset.dtype.kind == "f":
        report.findings.append(f"{dataset.idx_path}: holds {dataset.dtype} numbers, no tokens")
        return
    begins = document_begins(dataset)
    tokens = survey(dataset, begins, eod=known.eod, vocab_size=known.size)
    if known.size is not None:
        report.checked.append(f"tokens below {known.size:,}")
    if tokens.outside.number:
        which = "negative" if known.size is None else f"outside the vocabulary of {known.size}"
        report.findings.append(f"{in_words(dataset, begins, tokens.outside)} is {which}")
    if known.eod is None or is_label(dataset):
        return
    report.checked.append(f"documents that end with token {known.eod}")
    if tokens.unended.first is not None:
        documents = int(np.count_nonzero(np.diff(begins)))
        report.findings.append(
            f"{dataset.bin_path}: {tokens.unended.number:,} of {documents:,} documents do not end "
            f"with the end-of-document token {known.eod}, the first is document "
            f"{tokens.unended.first}"
        )


def check_labels(dataset: IndexedDataset, report: Verification) -> None:
    """Check that each label is the token of the text in its place, or masked."""
    labels = label_dataset(dataset)
    if labels is None:
        return
    report.checked.append(f"labels of {labels.prefix.name}")
    if not np.array_equal(labels.sizes, dataset.sizes):
        report.findings.append(
            f"{labels.idx_path}: {len(labels):,} sequences of {labels.total:,} tokens, but the "
            f"text has {len(dataset):,} of {dataset.total:,}, or of other sizes"
        )
        return
    wrong = Count()
    both = zip(chunks(dataset, "comparing"), chunks(labels, "with"), strict=True)
    for (at, tokens), (_, label) in both:
        wrong = wrong.plus((label != tokens) & (label != IGNORED), at)
    if wrong.number:
        where = in_words(labels, document_begins(labels), wrong)
        report.findings.append(f"{where} is neither the text's nor {IGNORED}")


def in_words(dataset: IndexedDataset, begins: NDArray[np.int64], count: Count) -> str:
    """Say where the first of them is: file, byte, document, token of the document."""
    assert count.first is not None
    offset = count.first
    document = int(np.searchsorted(begins, offset, "right")) - 1
    (tokens,) = dataset.ranges([offset], [1])
    others = f", the first of {count.number:,}" if count.number > 1 else ""
    return (
        f"{dataset.bin_path}: token {tokens[0]} at byte {offset * dataset.dtype.itemsize}, number "
        f"{offset - begins[document]} of document {document}{others},"
    )


main = entry_point(parser, run)
