"""The command `merge OUT PREFIX…`: several datasets as one, document after document.

The `.bin` and the sequences are those of NeoX's tools/datasets/merge_datasets.py, which forgets
the document bounds; here they are kept, Megatron's empty documents among them.
"""

import argparse
import contextlib
import hashlib
import pathlib
from collections.abc import Sequence
from typing import IO

import numpy as np

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say
from jaxneox.data.atomic import atomic_file
from jaxneox.data.commands.scan import chunks, is_label
from jaxneox.data.indexed import IndexedDataset, dataset_prefix
from jaxneox.data.sha256 import file_sha256, write_checksums
from jaxneox.data.storage import is_url
from jaxneox.data.writer import write_index
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "data merge",
        "Write all documents of several datasets, in the order in which they are given, as one: "
        "OUT.bin, OUT.idx and OUT.sha256.",
        [
            ("data/all data/books data/code", "two datasets as one"),
            ("data/all parts/ --overwrite", "all of a folder, sorted by name"),
        ],
    )
    p.add_argument("out", metavar="OUT", help="the prefix of the new dataset")
    p.add_argument("prefixes", nargs="+", metavar="PREFIX",
        help="datasets, or folders of them, sorted")  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")
    return p


def run(args: argparse.Namespace) -> int:
    out = dataset_prefix(args.out)
    datasets = [IndexedDataset(prefix) for prefix in expand(args.prefixes)]
    check(out, datasets, args.overwrite)
    try:
        write(out, datasets)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    merged = IndexedDataset(out)
    documents = len(merged.doc_idx) - 1
    say(f"{out}: {len(datasets)} datasets, {documents:,} documents, {merged.total:,} tokens")
    return 0


def expand(prefixes: Sequence[str]) -> list[str]:
    """Replace each folder by the datasets in it, by name."""
    expanded: list[str] = []
    for given in prefixes:
        folder = pathlib.Path(given)
        if is_url(given) or not folder.is_dir():
            expanded.append(given)
            continue
        inside = sorted(
            {str(dataset_prefix(p)) for s in ("bin", "idx") for p in folder.glob(f"*.{s}")}
        )
        if not inside:
            raise UserError(f"{given}: a folder without .bin/.idx datasets")
        expanded += inside
    return expanded


def check(out: pathlib.Path, datasets: Sequence[IndexedDataset], overwrite: bool) -> None:
    """Check that the datasets can be one, and that OUT may be written.

    Raises:
        UserError: the datasets differ in kind, or OUT exists.
    """
    first = datasets[0]
    for dataset in datasets:
        if dataset.dtype != first.dtype:
            raise UserError(
                f"{dataset.prefix}: holds {dataset.dtype}, {first.prefix} {first.dtype}; merge "
                "only what one tokenizer has made"
            )
        if is_label(dataset) != is_label(first):
            raise UserError(
                f"{dataset.prefix} and {first.prefix}: text and labels, merge them apart"
            )
        if isinstance(dataset.prefix, pathlib.Path) and dataset.prefix.resolve() == out.resolve():
            raise UserError(f"{out}: is among what is to be merged, give OUT another name")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder, make it first")
    existing = [path for path in (_bin(out), _idx(out)) if path.exists()]
    if existing and not overwrite:
        raise UserError(f"{existing[0]}: exists; take another name, or --overwrite")


def write(out: pathlib.Path, datasets: Sequence[IndexedDataset]) -> None:
    """Write the dataset. The index gets its name last, so that nobody reads half of one."""
    with contextlib.ExitStack() as files:
        index = files.enter_context(atomic_file(_idx(out)))
        tokens = files.enter_context(atomic_file(_bin(out)))
        digest = copy_tokens(datasets, tokens)
        sizes = np.concatenate([dataset.sizes for dataset in datasets])
        write_index(index, datasets[0].dtype, sizes, joined_documents(datasets))
        for file in (tokens, index):  # a full disk shows before the first of them has its name
            file.flush()
    digests = {_bin(out).name: digest, _idx(out).name: file_sha256(_idx(out))}
    write_checksums(out, digests)


def copy_tokens(datasets: Sequence[IndexedDataset], file: IO[bytes]) -> str:
    """Copy the tokens, and return their SHA-256."""
    digest = hashlib.sha256()
    for dataset in datasets:
        for _, tokens in chunks(dataset, "copying"):
            file.write(tokens.data)
            digest.update(tokens.data)
    return digest.hexdigest()


def joined_documents(datasets: Sequence[IndexedDataset]) -> np.ndarray:
    """Join int64 document bounds, those of each dataset moved by the sequences before it."""
    before = 0
    bounds = [np.zeros(1, np.int64)]
    for dataset in datasets:
        bounds.append(dataset.doc_idx[1:] + before)
        before += len(dataset)
    return np.concatenate(bounds)


def _bin(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(prefix.name + ".bin")


def _idx(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(prefix.name + ".idx")


main = entry_point(parser, run)
