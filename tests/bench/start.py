"""How soon a training run has made its first step: `python -m tests.bench.start`.

`jaxneox train` is started as a user would, again and again, with the programs that the first start
compiled in its cache. A start ends when the figures of the first step are in `metrics.jsonl`; the
time that a step itself takes, the third one's, is told beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.bench.sizes import SIZES, Case

EVERY = 0.002  # seconds between two looks
STEPS = 50  # of which three are waited for


def first_step(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Start a run; return the seconds until its first step's figures, and those of its third."""
    metrics = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "jaxneox", "train", *words, "--save", str(folder)]
    began, took = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while (there := lines(metrics)) < 3:
            if process.poll() is not None:
                sys.exit(process.stderr.read() if process.stderr else "it has ended")
            took = took or (time.perf_counter() - began) * bool(there)
            time.sleep(EVERY)
        process.kill()
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    return took, steps[2]["seconds"]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def words_of(size: str, folder: Path) -> list[str]:
    """A run of short steps, of a shape of Pythia's."""
    case = Case(size, 1, 16)
    keys = case.keys | {"train_iters": STEPS, "eval_iters": 0, "log_interval": 1, "warmup": 0}
    (folder / "run.yml").write_text(json.dumps(keys))
    tokens = np.stack([case.tokens(case.length + 1)] * STEPS)
    np.savez(folder / "tokens.npz", tokens=tokens)
    return [str(folder / "run.yml"), "--tokens", str(folder / "tokens.npz")]


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m tests.bench.start", description=__doc__)
    p.add_argument("--size", choices=SIZES, default="70m")
    p.add_argument("--rounds", type=int, default=5, metavar="N")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"JAXNEOX_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
        words = words_of(args.size, folder)
        cold, _ = first_step(words, folder / "cold", environment)
        print(f"{args.size}: cold {cold:.2f} s", flush=True)
        found = []
        for number in range(args.rounds):
            took, step = first_step(words, folder / f"run{number}", environment)
            found.append(took - step)
            print(f"{args.size}: {took:.2f} s, of which a step is {step:.2f} s", flush=True)
    print(f"{args.size}: a second start, median {statistics.median(found):.2f} s and a step")


if __name__ == "__main__":
    main()
