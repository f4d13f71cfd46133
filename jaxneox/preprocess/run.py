"""The work of the command: read, encode, write, and say how far it is."""

import argparse
import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jaxneox.console.say import tell
from jaxneox.console.units import seconds, significant
from jaxneox.data import documents
from jaxneox.errors import UserError
from jaxneox.preprocess.arguments import asked_of, inputs_of, recipe_of
from jaxneox.preprocess.encode import Encoder
from jaxneox.preprocess.output import Output
from jaxneox.preprocess.preferences import EQUAL
from jaxneox.preprocess.recognition import recognized
from jaxneox.preprocess.workers import encoded, processes

AHEAD = 2  # chunks for each worker that wait or are under way
FORMAT = 3  # raise it when the same input would give other chunks or tokens
LIBRARIES = ("tokenizers", "ftfy", "jinja2", "sentencepiece", "tiktoken")


def run(args: argparse.Namespace) -> int:
    """Read, encode and write; what was done before an interruption is not done again."""
    began = time.monotonic()
    files = [file for path in inputs_of(args) for file in documents.input_files(path)]
    recipe, notes = recognized(recipe_of(args), files, asked_of(args))
    total = sum(file.stat().st_size for file in files)
    workers = min(args.workers or os.cpu_count() or 1, total // documents.CHUNK + 1)
    console = Console(stderr=True)
    with processes(recipe, workers) as pool:
        encoder = recipe.build()  # while the processes start
        for note in (*notes, *(f"the tokenizer: {note}" for note in encoder.notes)):
            tell(f"note: {note}")
        identity = _identity(encoder, files)
        prefix = pathlib.Path(args.output_prefix)
        with Output(prefix, encoder.dtypes, identity, args.overwrite) as out:
            before = out.state.read
            if before:
                tell(f"going on after {out.state.documents:,} documents")
            todo = itertools.islice(documents.chunks(files, recipe.columns), out.state.chunks, None)
            with _progress(console, total, out) as show:
                for result in encoded(encoder, todo, pool, AHEAD * workers):
                    out.add(result)
                    show()
            if not out.state.documents:
                out.state.chunks = 0  # nothing to go on from
                raise UserError(f"{args.input[0]}: no text in {len(files)} file(s)")
            out.finish()
    tell(_summary(out, time.monotonic() - began, before))
    for note in _notes(out):
        tell(f"note: {note}")
    return 0


@contextlib.contextmanager
def _progress(console: Console, total: int, out: Output) -> Iterator[Any]:
    """Show a bar of the bytes of input, if somebody sees it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("tokenizing", total=total, completed=out.state.read)
        yield lambda: progress.update(
            task,
            completed=out.state.read,
            description=f"{out.state.documents:,} documents",
        )
        progress.update(task, completed=total)


def _identity(encoder: Encoder, files: list[pathlib.Path]) -> dict[str, Any]:
    """Return all that decides the output: a command that goes on must have the same."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "format": [FORMAT, documents.CHUNK],
        "files": digest.hexdigest(),
        "encoder": encoder.identity,
        "versions": versions,
    }


def _notes(out: Output) -> list[str]:
    """Say what is known only at the end."""
    why = {
        "int32": "all of its values are whole numbers",
        "float32": "not all of its values are whole numbers that int32 holds",
    }
    notes = [
        f"{name} is stored as {dtype}: {why[dtype]}" for name, dtype in out.state.rewards.items()
    ]
    if equal := out.state.counts.get(EQUAL):
        notes.append(
            f"{equal:,} of {out.state.documents:,} pairs have the same answer on both sides, of "
            "which nothing is learned"
        )
    return notes


def _summary(out: Output, taken: float, before: int) -> str:
    labelled = [name for name in out.dtypes if f"{name}_label" in out.dtypes]
    counted = labelled or [*out.dtypes][:1]  # both sides of pairs
    tokens = sum(out.state.ends[name][0] // out.dtypes[name].itemsize for name in counted)
    speed = significant((out.state.read - before) / 1e6 / max(taken, 1e-9), 2)
    names = ", ".join(f"{out.target(name)}.bin" for name in out.dtypes)
    return (
        f"{out.state.documents:,} documents, {tokens:,} tokens in {seconds(taken)} "
        f"({speed} MB/s): {names} with .idx and .sha256"
    )
