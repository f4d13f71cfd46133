"""`python -m tests.bench`: jaxneox beside transformers' GPTNeoX on this machine.

Training steps and forward passes of models named after Pythia's, random weights; each contender in
a process of its own, in turns. On a GPU (`--gpu`) in bfloat16 with sequences of 2,048 tokens.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp

from tests.bench import ours
from tests.bench.pairs import Result, measure
from tests.bench.sizes import Case

CPU = [Case("70m", 4, 512, "float32")]
GPU = [Case(size, batch, 2048, "bfloat16") for size, batch in (("160m", 16), ("410m", 8))]
GPU += [Case("1.4b", 4, 2048, "bfloat16"), Case("2.8b", 1, 2048, "bfloat16")]
PACKAGES = ("jax", "jaxlib", "torch", "transformers")


def peak(dtype: str, size: int = 4096) -> float:
    """FLOP/s of this machine's own matrix product, the best of several."""
    x = jnp.ones((size, size), dtype)
    run = jax.jit(lambda x: jnp.matmul(x, x, precision="highest" if dtype == "float32" else None))
    run(x).block_until_ready()
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        run(x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def table(results: Iterable[Result], best: dict[str, float]) -> str:
    rows = [
        "| | ours | eager | compiled | ratio | of the peak | memory, GiB: ours, eager, compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        share = ours.model_flops(one.case, one.kind) / one.seconds["ours"] / best[one.case.dtype]
        times = " | ".join(f"{seconds:.3f} s" for seconds in one.seconds.values())
        memory = ", ".join(f"{size / 2**30:.2f}" for size in one.peak.values())
        rows.append(
            f"| {one.kind}, {one.case.name} | {times} | {one.ratio:.2f} x | {share:.0%} | "
            f"{memory} |"
        )
    return "\n".join(rows)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    p.add_argument("--gpu", action="store_true", help="the sizes for one GPU")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    args = p.parse_args()
    cases = GPU if args.gpu else CPU
    best = {case.dtype: peak(case.dtype) for case in cases}
    results = [measure(case, kind, args.rounds) for case in cases for kind in ("train", "forward")]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(table(results, best) + "\n")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), end="; ")
    print(", ".join(f"{dtype} products {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in best.items()))
    if args.json:
        figures = {
            "machine": platform.machine(),
            "devices": [device.device_kind for device in jax.devices()],
            "versions": versions,
            "peak": best,
            "results": [asdict(one) for one in results],
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
