"""Plain text as a dataset: tokenized once into a `.bin/.idx` pair in a cache.

The files are those of `documents`, a folder is all such files in it; `builtin:stdlib` is the Python
source of the running interpreter's standard library, for a run that needs no download. Each
document ends with the tokenizer's end-of-document token, as NeoX's preprocessing with --append-eod
does.
"""

import functools
import hashlib
import json
import os
import pathlib
import sysconfig
from collections.abc import Iterator

import numpy as np

from jaxneox.console.progress import progress
from jaxneox.data import documents
from jaxneox.data.cache import cache_root, new_entry, say_damaged
from jaxneox.data.indexed import IndexedDataset, token_dtype
from jaxneox.data.tokenizer import Tokenizer
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError

STDLIB = "builtin:stdlib"
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
LARGE = 16 << 20  # bytes from which on the progress is shown
CONTENT = "content.json"  # beside the dataset, what `IndexedDataset.content` says of it
FORMAT = b"2"  # part of every cache key: raise it when the same text would give other tokens


def is_text(path: str) -> bool:
    """Tell whether `path` is text to be tokenized, rather than the prefix of a `.bin/.idx` pair."""
    if path.startswith("builtin:") or path.endswith(documents.SUFFIXES):
        return True
    return pathlib.Path(path).is_dir() and not pathlib.Path(f"{path}.idx").is_file()


def cached_dataset(path: str, tokenizer: Tokenizer) -> pathlib.Path:
    """Return the prefix of a text's `.bin/.idx`, made now if the cache does not have it.

    The cache is `$JAXNEOX_CACHE` or `~/.cache/jaxneox`, keyed by the content of the files and of
    the tokenizer. Several processes may ask at once: each writes a folder of its own, and the
    first to finish gives it the name. A damaged one is made again.
    """
    if tokenizer.eod is None:
        raise UserError(
            f"{path}: {tokenizer.name} has no <|endoftext|> token to end a document with, and no "
            "eos_token in a tokenizer_config.json beside it; set eod-token to the text of another, "
            "such as </s>"
        )
    files = text_files(path)
    key = _content_key(files, tokenizer)
    root = cache_root()
    name = "stdlib" if path == STDLIB else pathlib.Path(path).resolve().stem
    prefix = root / f"{name}-{key[:16]}" / f"{name}_text_document"
    try:
        if not _whole(prefix):
            there = prefix.parent.is_dir() and any(prefix.parent.iterdir())
            if there and _whole(prefix):  # another process has just made it
                return prefix
            if there:
                say_damaged(prefix.parent)
            root.mkdir(parents=True, exist_ok=True)
            _build(prefix, path, files, tokenizer, tokenizer.eod)
    except OSError as error:
        raise UserError(
            f"{prefix.parent}: cannot write the tokens of {path} ({error}); make "
            "room or set JAXNEOX_CACHE to another folder"
        ) from error
    return prefix


def text_files(path: str) -> list[pathlib.Path]:
    """List the files behind a path, sorted.

    Raises:
        UserError: there are none.
    """
    if path.startswith("builtin:"):
        if path != STDLIB:
            raise UserError(f"{path}: unknown, the one built-in corpus is {STDLIB}")
        return sorted(_library(sysconfig.get_path("stdlib")))
    return documents.input_files(path)


def _library(root: str) -> Iterator[pathlib.Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = set(inner) - NOT_LIBRARY
        yield from (pathlib.Path(folder, name) for name in names if name.endswith(".py"))


def _content_key(files: list[pathlib.Path], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(FORMAT + tokenizer.fingerprint().encode())
    for file in files:
        status = file.stat()
        digest.update(str(documents.kind_of(file)).encode() + file.suffix.encode())
        digest.update(_file_digest(file, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


@functools.cache
def _file_digest(path: pathlib.Path, size: int, modified: int) -> bytes:
    """Read each file once: train, valid and test of one run ask for the same ones."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _whole(prefix: pathlib.Path) -> bool:
    """Tell whether a cached dataset can be opened, and has the content that was written."""
    try:
        recorded = prefix.with_name(CONTENT)
        # earlier versions recorded nothing; looked at first, as it may be taken away meanwhile
        expected = json.loads(recorded.read_text()) if recorded.exists() else None
        dataset = IndexedDataset(prefix)
        return expected is None or expected == dataset.content
    except (UserError, OSError, ValueError):
        return False


def _build(
    prefix: pathlib.Path, path: str, files: list[pathlib.Path], tokenizer: Tokenizer, eod: int
) -> None:
    with new_entry(prefix.parent, lambda: _whole(prefix)) as folder:
        with IndexedWriter(folder / prefix.name, token_dtype(tokenizer.vocab_size)) as out:
            for wheres, texts in _batches(path, files):
                for ids in tokenizer.encode_batch(texts, wheres):
                    out.add(np.append(ids, eod))
            if not len(out):
                raise UserError(f"{path}: no text in {len(files)} file(s), only empty documents")
        content = IndexedDataset(folder / prefix.name).content
        (folder / CONTENT).write_text(json.dumps(content))


def _batches(path: str, files: list[pathlib.Path]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield where documents are, and their texts, with a bar if there is much of it.

    A list has about a million characters.
    """
    total = sum(file.stat().st_size for file in files)
    with progress(f"tokenizing {path}", total, at_least=LARGE) as advance:
        for chunk in documents.chunks(files):
            every = ((record[0], documents.text_of(record)) for record in chunk.records())
            found = [(where, text) for where, text in every if text]
            yield [where for where, _ in found], [text for _, text in found]
            advance(chunk.read)
