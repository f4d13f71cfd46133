"""`python -m tests.bench`: jaxneox beside transformers' GPTNeoX on this machine.

Training, forward passes, generation, conversion, data and a step's Python; sizes are named after
Pythia's, weights random; each contender in a process of its own, in turns. On a GPU (`--gpu`) in
bfloat16 with sequences of 2,048 tokens.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.bench.kinds import KINDS, OURS, PRODUCT, Kind
from tests.bench.missing import missing
from tests.bench.sizes import SIZES, Case
from tests.bench.table import tables
from tests.bench.turns import SHARED_GPU, WITHOUT_GPU, Ended, Result, measure

PACKAGES = ("jax", "jaxlib", "torch", "transformers", "datasets")

Work = list[tuple[Kind, Case]]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = p.add_argument
    add("--gpu", action="store_true", help="the cases for one GPU")
    add("--only", metavar="KIND,…", default=",".join(KINDS), help="default: %(default)s")
    add("--size", choices=SIZES, help="this one alone")
    add("--rounds", type=int, metavar="N", help="of each, instead of each kind's own number")
    add("--minutes", type=float, default=float("inf"), metavar="M", help="begin nothing later")
    add("--json", type=Path, metavar="FILE", help="all figures")
    return p


def main() -> None:
    began, p = time.monotonic(), parser()
    args = p.parse_args()
    names = args.only.split(",")
    for unknown in sorted({*names} - KINDS.keys()):
        p.error(f"--only {unknown}: expected some of {','.join(KINDS)}")
    kinds = [kind for name, kind in KINDS.items() if name in names]
    os.environ.update(SHARED_GPU if args.gpu else WITHOUT_GPU)
    if lack := missing(kinds, gpu=args.gpu):
        sys.exit(f"error: {lack}")
    results: list[Result] = []
    failed, work = False, planned(kinds, args.size, gpu=args.gpu)
    peaks = peaks_of(work, gpu=args.gpu)
    for kind, case in work:
        what = kind.named(case)
        if time.monotonic() - began > 60 * args.minutes:
            print(f"not measured, for want of time: {what}", file=sys.stderr)
            continue
        try:
            results.append(measure(kind, case, args.rounds or kind.rounds, gpu=args.gpu))
        except Ended as end:
            print(f"error: {what}: {end}", file=sys.stderr)
            failed = True
            continue
        print(tables(results[-1:], peaks) + "\n", flush=True)  # not lost if this is stopped
        if args.json:
            args.json.write_text(json.dumps(figures(results, peaks), indent=1) + "\n")
    if len(results) > 1:
        print("All of it:\n\n" + tables(sorted(results, key=order), peaks) + "\n")
    print(machine(peaks))
    sys.exit(failed)


def planned(kinds: Sequence[Kind], size: str | None, *, gpu: bool) -> Work:
    """The first case of every kind, then the second of each: there may be no time for all."""
    lists = [(kind, sized(kind.gpu if gpu else kind.cpu, size)) for kind in kinds]
    rounds = zip_longest(*([(kind, case) for case in cases] for kind, cases in lists))
    return [one for each in rounds for one in each if one is not None]


def sized(cases: Sequence[Case], size: str | None) -> Sequence[Case]:
    """Those of a size, or the first one with that size instead of its own."""
    if size is None:
        return cases
    return [case for case in cases if case.size == size] or [replace(cases[0], size=size)]


def order(result: Result) -> int:
    return list(KINDS.values()).index(result.kind)


def peaks_of(work: Work, *, gpu: bool) -> dict[str, float]:
    """FLOP/s by dtype, of those kinds that are held against them: the best of several products."""
    found = {}
    for dtype in sorted({case.dtype for kind, case in work if kind.flops}):
        (case,) = PRODUCT.gpu if gpu else PRODUCT.cpu
        try:
            result = measure(PRODUCT, replace(case, dtype=dtype), PRODUCT.rounds, gpu=gpu)
        except Ended as end:
            sys.exit(f"error: {PRODUCT.named(case)}: {end}")
        found[dtype] = 2 * case.length**3 / min(result.seconds[OURS])
    return found


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES if find_spec(name)}


def machine(peaks: Mapping[str, float]) -> str:
    said = [f"{name} {version}" for name, version in versions().items()]
    rates = [f"{dtype} products {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in peaks.items()]
    return "; ".join([", ".join(said), *rates])


def figures(results: Sequence[Result], peaks: Mapping[str, float]) -> dict[str, Any]:
    import jax

    return {
        "machine": platform.machine(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": versions(),
        "peak": peaks,
        "results": [one.figures() for one in results],
    }


if __name__ == "__main__":
    main()
