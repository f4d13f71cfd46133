"""What an adapter adds to each weight, here and in PEFT's files, compared in float64."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convert.ours.merged import distance
from convert.peft.modules import AdaptedModule
from convert.peft.tensors import Adapters
from convert.readers.adapter import AdapterCheckpoint
from convert.writers.staging import Unproven
from jaxneox.console.progress import progress

EXACT = 1e-12
"""The limit where every number was kept: what orders of float64's sums differ by, with room."""


def check(
    ours: AdapterCheckpoint,
    theirs: Adapters,
    modules: Sequence[AdaptedModule],
    dst: Path,
    limit: float = EXACT,
) -> str:
    """Compare s A B, laid out as the rule of the whole weight says, with PEFT's s B A.

    Args:
        ours: the adapter as a run.
        theirs: the matrices of the folder.
        modules: those of the family; one without matrices there adds zeros.
        dst: what is being written, for the error.
        limit: the tolerated relative L2 distance.

    Returns:
        One line with the number of weights and the largest distance.

    Raises:
        Unproven: a weight differs by more.
    """
    worst, where = 0.0, ""
    own = [module for module in modules if module.matrix in ours.matrices]
    count = ours.model.num_layers * len(own)
    with progress("comparing with PEFT's", count, unit="weights") as advance:
        for layer in range(ours.model.num_layers):
            deltas = {matrix: ours.delta(matrix, layer) for matrix in ours.matrices}
            for module in own:
                expected = module.weight(deltas[module.matrix])
                off = distance(_added(theirs, module, layer, expected.shape), expected)
                advance(1)
                if not off <= worst:
                    worst, where = off, module.in_layer(layer)
    line = (
        f"{count} weights get the same from both ends: s B A there and s A B here, in float64, "
        f"relative L2 {worst:.1e} at most"
    )
    if not worst <= limit:
        raise Unproven(
            f"{dst}: was not written, for the two ends add different numbers to the weight of "
            f"{where}: relative L2 {worst:.1e}, expected at most {limit:.0e}. The unproven result "
            f"was kept as {dst}.unproven"
        )
    return line


def _added(
    theirs: Adapters, module: AdaptedModule, layer: int, shape: tuple[int, ...]
) -> np.ndarray:
    adapter = theirs.get((module.name, layer))
    if adapter is None:
        return np.zeros(shape)
    a, b = adapter.read()
    product = adapter.scale * (b.astype(np.float64) @ a.astype(np.float64))
    return product.T if module.transposed else product
