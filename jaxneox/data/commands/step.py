"""The command `inspect RUN --step N`: which documents and tokens a run sees at a step."""

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.say import say
from jaxneox.data.commands.document import token_range
from jaxneox.data.commands.run_data import RunData, open_run
from jaxneox.data.examples import ExampleLoader
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.loader import HostBatch
from jaxneox.data.samples import Span
from jaxneox.errors import UserError
from jaxneox.reading import parse_json

SHOWN = 16  # rows, unless asked
WIDTH, PREVIEW = 100, 64  # characters of a line, and tokens that are decoded to fill it


def show(args: argparse.Namespace) -> int:
    if args.step < 1:
        raise UserError(f"--step: {args.step}, a run's log counts its steps from 1")
    run = open_run(args)
    step = args.step - 1
    size = run.loader.sizes.size(step)
    rows = range(size)[token_range(args.rows or ("0:" if args.json else f"0:{SHOWN}"))]
    shown = look(run, step, rows)
    first, last = run.loader.sample_numbers(step)
    figures = {
        "step": args.step,
        "samples": [first, last],
        "logged": logged(run, args.step),
        "rows": shown,
    }
    if args.json:
        say(json.dumps(figures))
        return 0
    say(*page(figures, run, args.full, size - len(rows)))
    return 0


def look(run: RunData, step: int, rows: range) -> list[dict[str, Any]]:
    """Describe each row: its sample, where its tokens are, and their text."""
    numbers = run.loader.numbers(step, list(rows))
    if isinstance(run.loader, ExampleLoader):
        return _look_at_examples(run.loader, step, rows, numbers.tolist())
    batch = run.loader.read(step, list(rows))
    return [
        {
            "row": row,
            "sample": int(number),
            "counted": _counted(batch, k),
            "spans": [
                _span(dataset, span, batch.tokens[k, span.column : span.column + span.length])
                for dataset, span in run.loader.samples.spans(int(number))
            ],
        }
        for k, (row, number) in enumerate(zip(rows, numbers, strict=True))
    ]


def _look_at_examples(
    loader: ExampleLoader, step: int, rows: range, numbers: list[int]
) -> list[dict[str, Any]]:
    """Describe each pair, or each text with its reward."""
    fields = loader.fields(step, list(rows))
    counted = fields.get("labelled", fields["weights"])
    shown = []
    for k, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        described: dict[str, Any] = {"row": row, "sample": number, "counted": int(counted[k].sum())}
        for name in ("reward", "raw_reward"):
            if name in fields:
                described[name] = float(fields[name][k])
        described["spans"] = [
            ({"side": side} if side else {}) | _span(dataset, span, dataset.get(*span[2:]))
            for side, dataset, span in loader.examples.spans(number)
        ]
        shown.append(described)
    return shown


def _span(dataset: IndexedDataset, span: Span, ids: NDArray[Any]) -> dict[str, Any]:
    return {
        "data": str(dataset.prefix),
        "document": span.document,
        "tokens": [span.offset, span.offset + span.length],
        "column": span.column,
        "ids": ids.tolist(),
    }


def logged(run: RunData, step: int) -> dict[str, Any] | None:
    """Read the figures of that step from the run's metrics.jsonl."""
    if run.folder is None or not (run.folder / "metrics.jsonl").is_file():
        return None
    path = run.folder / "metrics.jsonl"
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            row = parse_json(line, f"{path}:{number}")
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise UserError(
                    f"{path}:{number}: is no row of a log: expected the number of a step"
                )
            if row["step"] == step:
                return row
    return None


def page(figures: dict[str, Any], run: RunData, full: bool, more: int) -> list[str]:
    first, last = figures["samples"]
    head = f"step {figures['step']}: samples {first} to {last}"
    if figures["logged"]:
        head += "".join(
            f", {name.replace('_', ' ')} {figures['logged'][name]:.4f}"
            for name in ("loss", "grad_norm")
            if isinstance(figures["logged"].get(name), float)
        )
    lines = [head]
    for row in figures["rows"]:
        masked = "" if row["counted"] is None else f", {row['counted']} labels count"
        masked += "".join(
            f", {name.replace('_', ' ')} {row[name]:g}"
            for name in ("reward", "raw_reward")
            if name in row
        )
        lines += ["", f"row {row['row']}, sample {row['sample']}{masked}"]
        for span in row["spans"]:
            begin, end = span["tokens"]
            name = span["data"].rpartition("/")[2]
            side = f"{span['side']}: " if "side" in span else ""
            where = f"  {side}{name} document {span['document']}, tokens {begin} to {end}"
            lines += _described(where, span["ids"], run, full)
    if more:
        lines += ["", f"and {more} more rows: --rows A:B"]
    return lines


def _described(where: str, ids: list[int], run: RunData, full: bool) -> list[str]:
    """Write where a span is, and its text as far as it goes on the line, or all of it."""
    if run.tokenizer is None:
        return [f"{where}: {' '.join(map(str, ids if full else ids[:8]))}"]
    if full:
        return [f"{where}:", run.tokenizer.decode(ids)]
    text = " ".join(run.tokenizer.decode(ids[:PREVIEW]).split())
    room = max(20, WIDTH - len(where) - 2)
    return [f"{where}: {text if len(text) <= room else text[: room - 1] + '…'}"]


def _counted(batch: HostBatch, row: int) -> int | None:
    return None if batch.weights is None else int(np.count_nonzero(batch.weights[row]))
