"""Meshes against one device as a table: `python -m tests.parallel.matrix [--all]`."""

import sys

from tests import conftest  # noqa: F401  (eight devices before jax starts)
from tests.parallel.test_meshes import GRADIENT, LOSS, PARAMETER, PRODUCT, check, covering

HEAD = f"""# Meshes against one device

Made by `make matrix`: every pair of values in these columns occurs together; `make matrix
ALL=--all` runs the whole product of {len(PRODUCT)}. Five AdamW steps of a small parallel-residual
model in float32, each case against the same run on one device. Relative differences: of the loss
(the greatest of five steps, bound {LOSS:g}), of the first step's gradients (relative L2 of the
worst leaf, bound {GRADIENT:g}) and of the parameters after the last step (the same, bound
{PARAMETER:g}).

| dp | tp | ZeRO | sequence parallel | accumulation | embedding | loss | gradient | parameter |
|---|---|---|---|---|---|---|---|---|"""


def main() -> int:
    print(HEAD, flush=True)
    failed = 0
    cases = PRODUCT if "--all" in sys.argv else covering(PRODUCT)
    for number, (mesh, tied) in enumerate(cases, 1):
        worst = check(mesh, tied)
        failed += worst["loss"] > LOSS or worst["gradient"] > GRADIENT
        failed += worst["parameter"] > PARAMETER
        sequence, embedding = "yes" if mesh.sequence else "no", "tied" if tied else "untied"
        cells = [mesh.dp, mesh.tp, mesh.zero, sequence, mesh.accumulation, embedding]
        cells += [f"{value:.1e}" for value in worst.values()]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        print(f"\r{number} of {len(cases)}", end="", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
