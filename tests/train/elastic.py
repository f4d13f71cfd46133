"""Saved on one mesh, continued on another, as a table: `python -m tests.train.elastic`."""

import sys
import tempfile
from functools import cache
from pathlib import Path

from tests import conftest  # noqa: F401  (eight devices before jax starts)
from tests.train.runs import losses, succeeds, write_yaml

STEPS, BOUND = 5, 1e-6

# --mesh, and what else of the run depends on the devices
ONE = ("dp=1", ())
TWO = ("dp=2", ())
THREE = ("dp=3", ())
SHARDED = ("dp=4", ("zero_optimization.stage=3",))
TENSOR = ("tp=2", ())
SEQUENCE = ("dp=2,tp=4", ("sequence-parallel=true", "zero_optimization.stage=2"))
STAGES = ("pp=2", ("gradient-accumulation-steps=6",))
CIRCLE = (
    "pp=2,dp=2",
    (
        "gradient-accumulation-steps=3",
        "pipe-parallel-chunks=2",
        "zero_optimization.stage=1",
    ),
)
RING = ("cp=4,dp=2", ("context-parallel-attention=ring", "zero_optimization.stage=1"))
GATHER = ("cp=2,tp=2", ("context-parallel-attention=gather",))
ALL = ("pp=2,cp=2,tp=2", ("gradient-accumulation-steps=2", "zero_optimization.stage=3"))

Devices = tuple[str, tuple[str, ...]]

PAIRS: list[tuple[Devices, Devices]] = [
    (ONE, TENSOR), (STAGES, ONE), (TWO, THREE), (TENSOR, STAGES), (CIRCLE, SEQUENCE),
    (ONE, CIRCLE), (RING, SHARDED), (SHARDED, TWO), (ALL, THREE), (SEQUENCE, ALL),
    (GATHER, RING), (STAGES, CIRCLE),
]  # fmt: skip

KEYS = {
    "num_layers": 4,
    "train_batch_size": 12,
    "train_iters": 2 * STEPS,
    "checkpoint_factor": STEPS,
    "attention_dropout": 0.0,
    "zero_optimization": {"stage": 0},
}


class Runs:
    """Each mesh's own run, made once, in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.yaml = folder, write_yaml(folder, **KEYS)
        self.on = cache(self._on)

    def _on(self, devices: Devices) -> Path:
        return self._run(self.yaml, devices, self.folder / name(devices))

    def _run(self, start: Path, devices: Devices, save: Path) -> Path:
        mesh, keys = devices
        succeeds(start, "--mesh", mesh, "--save", save, *(("--set", *keys) if keys else ()))
        return save

    def difference(self, first: Devices, then: Devices) -> float:
        """Of the losses of the next steps to those without a change, relative, the greatest."""
        whole = self.on(first)
        save = self.folder / f"{name(first)}, {name(then)}"
        reset = (*then[1], *(key for key in RESET if key.split("=")[0] not in str(then[1])))
        self._run(whole / f"step_{STEPS}", (then[0], reset), save)
        pairs = zip(losses(save), losses(whole)[STEPS:], strict=True)
        return max(abs(a / b - 1) for a, b in pairs)


# a checkpoint remembers its run's keys
RESET = (
    "gradient-accumulation-steps=null",
    "pipe-parallel-chunks=1",
    "zero_optimization.stage=0",
    "sequence-parallel=false",
    "context-parallel-attention=auto",
)


def name(devices: Devices) -> str:
    mesh, keys = devices
    return " ".join([mesh, *keys])


def main() -> int:
    print("## Continued on another mesh\n")
    print(
        f"A run with dropout is saved after {STEPS} steps and goes on for {STEPS} more with other "
        "devices. Difference of their losses to those of the run that stayed where it was, the "
        f"greatest, relative (bound {BOUND:g}).\n"
    )
    print("| saved on | continued on | loss |\n|---|---|---|", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for first, then in PAIRS:
            difference = runs.difference(first, then)
            failed += difference > BOUND
            print(f"| {name(first)} | {name(then)} | {difference:.1e} |", flush=True)
    print(f"\n{len(PAIRS)} pairs, {failed} beyond the bound.")
    return failed


if __name__ == "__main__":
    sys.exit(main())
