"""The parameters of two checkpoints, compared number by number.

If copies of a norm were folded away, the same function can be written in other numbers: a factor in
the norm may be in the matrices that read it. Then products are compared, which are the same either
way: with a norm (w, b) and a matrix and bias (W, c) behind it, `W diag(w)` and `c + W b`.
"""
# D hidden, X the other axes of what a norm feeds

from functools import partial

import ml_dtypes
import numpy as np

from convert.fate import blocks
from convert.parts import Leaves, Part
from convert.proof.result import Proof
from convert.proof.sides import at_once
from jaxneox.config.schema import ModelConfig

ROUNDINGS = 4
"""The tolerated number of roundings in a product of two factors that are themselves rounded
quotients or products."""


class NumberComparison:
    """Compares the parameters of two checkpoints, part by part.

    Args:
        model: the target's configuration.
        folded: whether norms were folded, so that products of tensors are compared.
    """

    def __init__(self, model: ModelConfig, folded: bool) -> None:
        self._reads = reads_norm(model) if folded else {}
        self._norms = tuple(f"{norm}." for norm in {*self._reads.values()})

    def compare(self, proof: Proof, part: Part, theirs: Leaves, ours: Leaves) -> None:
        """Compare every parameter of one part, and add what was found to the proof.

        Args:
            proof: gets the number of elements, and a line for each parameter that differs.
            part: which part it is.
            theirs: the source's parameters.
            ours: the target's parameters.
        """
        place = f"layer {part}: " if isinstance(part, int) else ""
        found = at_once(
            partial(self._difference, place, name, theirs, ours)
            for name in sorted(ours, key=is_bias)
        )
        for elements, difference in found:
            proof.elements += elements
            proof.different += [difference] if difference else []

    def _difference(self, place: str, name: str, theirs: Leaves, ours: Leaves) -> tuple[int, str]:
        """Return how many elements were compared, and a line if some differ."""
        leaf, where = ours[name], f"{place}{name}"
        if name in self._reads:
            return leaf.size, _product(where, name, self._reads[name], (theirs, ours))
        if self._norms and name.startswith(self._norms):
            return 0, ""
        return leaf.size, _exactly(where, theirs[name], leaf)


def is_bias(name: str) -> bool:
    """Tell biases from matrices; biases come after the matrices that they belong to."""
    return name.endswith("bias")


def reads_norm(model: ModelConfig) -> dict[str, str]:
    """Map each matrix to the norm whose output it multiplies, and each bias likewise."""
    second = "layers.norm1" if model.shared_norm else "layers.norm2"
    readers: dict[str, tuple[str, ...]] = {
        "layers.norm1": ("layers.attention.qkv", "layers.attention.qkv_bias"),
        "final_norm": ("unembed.weight", "unembed.bias"),
    }
    if model.head == "reward":  # has no bias into which a norm's could be folded
        readers["final_norm"] = ("reward.weight",) * (model.norm.kind == "scalenorm")
    norms = {name: norm for norm, names in readers.items() for name in names}
    mlp = ("up", "up_bias", "gate", "gate_bias")
    return norms | {f"layers.mlp.{name}": second for name in mlp}


def _exactly(where: str, expected: np.ndarray, actual: np.ndarray) -> str:
    """Compare with the source's numbers, rounded to the target's type if that is narrower."""
    expected = expected.astype(actual.dtype, copy=False)
    if same_bits(expected, actual):
        return ""
    differs = (expected != actual) & ~((expected != expected) & (actual != actual))  # NaN is NaN
    if not differs.any():
        return ""
    first = [int(i) for i in np.argwhere(differs)[0]]
    return f"{where}: {int(differs.sum())} of {actual.size} elements differ, the first at {first}"


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two arrays of one shape and type are the same, bit by bit."""
    return all(map(np.array_equal, blocks(a), blocks(b)))


def _product(where: str, name: str, norm: str, both: tuple[Leaves, Leaves]) -> str:
    expected, size = _effective(name, norm, both[0])
    actual, _ = _effective(name, norm, both[1])
    eps = float(ml_dtypes.finfo(both[1][name].dtype).eps)
    wrong = ~(abs(actual - expected) <= ROUNDINGS * eps * size)
    if not wrong.any():
        return ""
    first = [int(i) for i in np.argwhere(wrong)[0]]
    return (
        f"{where} behind {norm}: {int(wrong.sum())} of {actual.size} elements differ by more than "
        f"rounding, the first at {first}"
    )


def _effective(name: str, norm: str, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """Compute `W diag(w)` or `c + W b` in float64, and the magnitude of its terms."""
    scale = next(leaves[f"{norm}.{kind}"] for kind in ("scale", "g") if f"{norm}.{kind}" in leaves)
    weight_name = WEIGHTS.get(name)
    if weight_name is None:  # a matrix [D, …]
        weight = leaves[name].astype(np.float64)
        product = weight * scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        return product, abs(product)
    bias = leaves[name].astype(np.float64)
    if f"{norm}.bias" not in leaves:
        return bias, abs(bias)
    weight, shift = (leaves[n].astype(np.float64) for n in (weight_name, f"{norm}.bias"))
    size = abs(bias) + np.tensordot(abs(shift), abs(weight), 1)
    return bias + np.tensordot(shift, weight, 1), size


WEIGHTS = {
    "layers.attention.qkv_bias": "layers.attention.qkv",
    "layers.mlp.up_bias": "layers.mlp.up",
    "layers.mlp.gate_bias": "layers.mlp.gate",
    "unembed.bias": "unembed.weight",
}
"""Maps each bias to the matrix whose product it is added to."""
