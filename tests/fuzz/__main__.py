"""`python -m tests.fuzz`: broken and hostile files, and what the commands make of them.

Each case is made from the seed, its kind and its number alone, and read by a command in a process
of its own. A command must end within seconds with exit status 0, or with 2 and one line, must not
grow by a gigabyte, and must write nothing beside its destination.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz import bases
from tests.fuzz.kinds import KINDS, prepared
from tests.fuzz.outcome import Outcome
from tests.fuzz.worker import in_a_child, run

IMPORTED = (
    *("jax", "convert.inspect", "convert.readers.hf", "jaxneox.train.run", "jaxneox.cli"),
    *("jaxneox.data.commands.step", "tests.fuzz.commands", "tokenizers", "safetensors"),
)
"""Imported once, before any fork."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = p.add_argument
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add("--count", type=int, metavar="N", help="cases of each kind; default: 10 to 200 by the kind")
    add("--only", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    add("--case", type=int, metavar="N", help="of --only, this case alone, and keep its files")
    return p


def main() -> None:
    args = parser().parse_args()
    if args.case is not None and args.only is None:
        sys.exit("error: --case N needs --only KIND")
    os.environ.pop("XLA_FLAGS", None)  # one device, whoever starts this
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    for name in IMPORTED:
        importlib.import_module(name)
    work = Path(tempfile.mkdtemp(prefix="jaxneox-fuzz-"))
    _, status = os.waitpid(in_a_child(lambda: bases.make(work / "base")), 0)
    if status:
        sys.exit("error: the valid files could not be made")
    rows, failed = {}, False
    for kind in [args.only] if args.only else KINDS:
        count = args.count or KINDS[kind].count
        numbers = range(count) if args.case is None else [args.case]
        rows[kind] = outcomes = [case(work, kind, args.seed, n, args.case) for n in numbers]
        failed |= not all(one.good for one in outcomes)
    print("\n" + table(rows))
    if args.case is None:
        shutil.rmtree(work)
    else:
        print(f"The files are in {work}")
    sys.exit(failed)


def case(work: Path, kind: str, seed: int, number: int, kept: int | None) -> Outcome:
    """Run a case, and print how to repeat it if it fails."""
    folder = work / f"{number:04d}"
    limits = KINDS[kind]
    module, argv = prepared(work / "base", folder, kind, seed, number)
    outcome = run(importlib.import_module(module), argv, folder, limits.seconds, limits.findings)
    if kept is not None or not outcome.good:
        again = f"python -m tests.fuzz --seed {seed} --only '{kind}' --case {number}"
        print(f"{outcome.kind}: {again}\n    {outcome.line[:300]}", flush=True)
    if kept is None:
        shutil.rmtree(folder)
    return outcome


def table(rows: dict[str, list[Outcome]]) -> str:
    """Write the outcomes of each kind, with the slowest and the largest of its cases."""
    kinds = ["read", "refused"]
    kinds += sorted({one.kind for row in rows.values() for one in row} - {*kinds})
    lines = [["", *kinds, "seconds", "MB"]]
    for name, row in rows.items():
        counts = Counter(one.kind for one in row)
        most = max(one.seconds for one in row), max(one.megabytes for one in row)
        lines.append([name, *(str(counts[k]) for k in kinds), f"{most[0]:.1f}", f"{most[1]:.0f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if k == 0 else cell.rjust(width)
                  for k, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip


if __name__ == "__main__":
    main()
