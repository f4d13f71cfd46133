"""One run by one, two and four processes, as a table: `python -m tests.hosts.elastic`."""

import sys
import tempfile
from pathlib import Path

from tests import conftest  # noqa: F401  (eight devices before jax starts)
from tests.hosts.processes import Processes
from tests.train.elastic import RESET
from tests.train.runs import losses, succeeds, write_yaml

STEPS, BOUND = 5, 1e-6
KEYS = {
    "num_layers": 4,
    "train_batch_size": 8,
    "train_iters": 2 * STEPS,
    "checkpoint_factor": STEPS,
    "attention_dropout": 0.0,
}
MESH = "dp=2,pp=2,tp=2"
STAGES = ("--set", "gradient-accumulation-steps=2", "zero_optimization.stage=1")


def run(folder: Path, processes: int, start: Path, mesh: str, save: str, *more: str) -> Path:
    words = (start, f"--mesh={mesh}", "--save", folder / save, *more)
    if processes == 1:
        succeeds(*words)
    else:
        with Processes(processes, folder, *words) as several:
            ended = several.wait(600)
        assert [end.code for end in ended] == [0] * processes, ended
    return folder / save


def difference(found: list[float], expected: list[float]) -> float:
    return max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))


def main() -> int:
    print("| processes | mesh | steps | greatest difference of a loss, relative |")
    print("|---|---|---|---|", flush=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yaml = write_yaml(folder, **KEYS)
        expected = losses(run(folder, 1, yaml, "dp=1", "one"))
        for processes in (1, 2, 4):
            save = run(folder, processes, yaml, MESH, f"by {processes}", *STAGES)
            apart = difference(losses(save), expected)
            worst = max(worst, apart)
            print(f"| {processes} | {MESH} | 1 to {2 * STEPS} | {apart:.1e} |", flush=True)
        saved = folder / "by 4" / f"step_{STEPS}"
        for processes, mesh in ((1, "dp=1"), (2, "dp=2,cp=2"), (4, "dp=4,tp=2")):
            more = ("--set", *RESET)
            save = run(folder, processes, saved, mesh, f"from 4 to {processes}", *more)
            apart = difference(losses(save), expected[STEPS:])
            worst = max(worst, apart)
            steps = f"{STEPS + 1} to {2 * STEPS}, saved by 4"
            print(f"| {processes} | {mesh} | {steps} | {apart:.1e} |", flush=True)
    return worst > BOUND


if __name__ == "__main__":
    sys.exit(main())
