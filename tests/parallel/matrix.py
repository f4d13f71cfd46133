"""Meshes against one device as a table: `python -m tests.parallel.matrix`."""

import sys
import time

from tests import conftest  # noqa: F401  (eight devices before jax starts)
from tests.parallel.cases import BOUNDS, GRADIENT, LOSS, NORM, PARAMETER, check, covering
from tests.parallel.meshes import MODEL, STEPS

COLUMNS = (
    "pp", "dp", "cp", "tp", "chunks", "micro-batches", "ZeRO", "sequence parallel", "attention",
    "embedding", "residual", "dropout", "remat", *BOUNDS,
)  # fmt: skip

HEAD = f"""# Meshes against one device

Made by `make matrix`: every two values of these columns, the four axes of the mesh together being
one, occur together in a case. {STEPS} AdamW steps of a small model of {MODEL.num_layers} layers in
float32 on eight virtual devices, each case against the same run on one device. Relative
differences: of the loss (the greatest of the steps, bound {LOSS:g}), of the first step's gradients
(relative L2 of the worst leaf, bound {GRADIENT:g}), of the gradient norm (the greatest, bound
{NORM:g}) and of the parameters after the last step (the worst leaf, bound {PARAMETER:g}).

`chunks` of layers for each stage: 1 is GPipe, more are circular. `attention` over cp gathers keys
and values or passes them around a ring; dropout is that of the hidden states, and of attention's
weights where there is no ring.
"""


def main() -> int:
    print(HEAD)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    failed, start = 0, time.perf_counter()
    cases = covering()
    for number, case in enumerate(cases, 1):
        worst = check(case)
        failed += any(worst[name] > bound for name, bound in BOUNDS.items())
        cells = [_word(value) for value in case.features().values()]
        cells += [f"{worst[name]:.1e}" for name in BOUNDS]
        print("| " + " | ".join(cells) + " |", flush=True)
        seconds = time.perf_counter() - start
        print(f"\r{number} of {len(cases)}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)
    print(f"\n{len(cases)} cases, {failed} beyond a bound.")
    return failed


def _word(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
