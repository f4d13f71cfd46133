"""A large conversion beside `cp -r` and `sha256sum`: `python -m tests.bench.large_conversion`.

A GPT-NeoX checkpoint of random float16 weights is written for two model-parallel ranks and
converted, with the proof and without, in turns with what copying it and taking its checksums take.
Each is a process of its own; the memory is the most that it had in all, mapped files included.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.convert.synthetic import SIZES

GB = 1e9


def measured(words: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the most memory that it had, in GB."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(said)
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / GB


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m tests.bench.large_conversion", description=__doc__)
    p.add_argument("--model", choices=SIZES, default="1.4B")
    p.add_argument("--mp", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--folder", type=Path, help="where there is room; a temporary one by default")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        source, made = folder / "neox", folder / "made"
        synthetic = [sys.executable, "-m", "tests.convert.synthetic", str(source)]
        measured([*synthetic, "--model", args.model, "--mp", str(args.mp), "--pp", "1"])
        files = [str(path) for path in sorted(source.rglob("*")) if path.is_file()]
        convert = [sys.executable, "-m", "jaxneox", "convert", "from-neox", str(source), str(made)]
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "cp -r": lambda: measured(["cp", "-r", str(source), str(made)]),
            "sha256sum": lambda: measured(["sha256sum", *files]),
            "from-neox --no-verify": lambda: measured([*convert, "--no-verify"]),
            "from-neox": lambda: measured(convert),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, run in ways.items():
                found[way].append(run())
                print(f"{way}: {found[way][-1][0]:.1f} s, {found[way][-1][1]:.2f} GB", flush=True)
                shutil.rmtree(made, ignore_errors=True)
                os.sync()  # what one has written is not the next one's to wait for
    middle = {way: statistics.median(one[0] for one in all_) for way, all_ in found.items()}
    plain = middle["cp -r"] + middle["sha256sum"]
    print(f"medians: {', '.join(f'{way} {taken:.1f} s' for way, taken in middle.items())}")
    print(f"without the proof {middle['from-neox --no-verify'] / plain:.2f} x cp + sha256sum")


if __name__ == "__main__":
    main()
