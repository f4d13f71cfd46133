"""The command `batch A.yml --steps 0:8 --out FILE.npz`: a run's global batches as a file."""
# T steps, G global batch, S tokens of a sample

import argparse
import math
import pathlib
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say
from jaxneox.data.atomic import atomic_file
from jaxneox.data.commands import run_data
from jaxneox.data.examples import ExampleLoader
from jaxneox.data.loader import SampleLoader
from jaxneox.errors import UserError

MOST = 4 << 30  # bytes of tokens that are held at once


def parser() -> Parser:
    p = Parser(
        "data batch",
        "Write the global batches of some steps, counted from 0: `tokens` [steps, batch, sequence "
        "+ 1] and, where not every token counts, `loss_mask` [steps, batch, sequence]. "
        "`jaxneox train --tokens` trains on such a file. Of training on preferences it has every "
        "field, as `jaxneox.fit` takes them.",
        [
            ("my.yml --steps 0:8 --out batches.npz", "the first eight of a configuration"),
            ("runs/mine --steps 1000 --out one.npz --split valid", "one that a run evaluates on"),
        ],
    )
    p.add_argument("paths", nargs="+", metavar="A.yml|RUN", help="YAMLs to merge, or a run")
    what = p.add_argument_group("what to write")
    what.add_argument(
        "--steps", required=True, metavar="A:B", help="from A to before B; or one step"
    )
    what.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.npz",
        help="the file to be written")  # fmt: skip
    run_data.add_options(p)
    return p


def run(args: argparse.Namespace) -> int:
    steps = step_range(args.steps)
    if args.out.suffix != ".npz":
        raise UserError(f"--out: {args.out}, expected a name that ends in .npz")
    loader = run_data.open_run(args).loader
    check_size(loader, steps)
    arrays = read(loader, steps)
    with atomic_file(args.out) as file:
        np.savez(file, **arrays)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    first, last = loader.sample_numbers(steps.start)[0], loader.sample_numbers(steps[-1])[1]
    say(f"{args.out}: {shapes}; samples {first} to {last} of {args.split}")
    return 0


def read(loader: SampleLoader | ExampleLoader, steps: range) -> dict[str, Any]:
    shape = (len(steps), loader.sizes.size(steps.start), loader.seq_length + 1)
    room = 4 * math.prod(shape)
    if room > MOST:
        raise UserError(
            f"--steps {steps.start}:{steps.stop}: {room / 1e9:,.0f} GB of tokens, expected at most "
            f"{MOST / 1e9:.0f} in one file; write fewer steps at a time"
        )
    arrays: dict[str, Any] = {}
    for k, step in enumerate(steps):
        for name, values in _of_step(loader, step).items():  # of the same names at every step
            if not k:
                arrays[name] = np.empty((len(steps), *values.shape), values.dtype)
            arrays[name][k] = values
    return arrays


def _of_step(loader: SampleLoader | ExampleLoader, step: int) -> dict[str, NDArray[Any]]:
    if isinstance(loader, ExampleLoader):
        return loader.fields(step)
    tokens, weights = loader.read(step)
    return {"tokens": tokens} if weights is None else {"tokens": tokens, "loss_mask": weights}


def step_range(given: str) -> range:
    """Parse `A:B`, or `A` alone."""
    match = re.fullmatch(r"(\d+)(?::(\d+))?", given)
    first, end = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
    if first >= end:
        raise UserError(f"--steps: {given!r}, expected A:B with A below B, such as 0:8")
    return range(first, end)


def check_size(loader: SampleLoader | ExampleLoader, steps: range) -> None:
    """Refuse steps in between which the batch grows: one array holds one size.

    Raises:
        UserError: the sizes differ.
    """
    sizes = loader.sizes
    grows = [stage.step for stage in sizes.stages if steps.start < stage.step < steps.stop]
    if grows:
        raise UserError(
            f"--steps {steps.start}:{steps.stop}: the batch is {sizes.size(steps.start)} sequences "
            f"at first and {sizes.size(grows[0])} from step {grows[0]} on; write both apart"
        )


main = entry_point(parser, run)
