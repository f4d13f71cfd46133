"""The parameters of two checkpoints, number by number.

Where copies of a norm were folded away, the same function can be written in other numbers: what is
in the norm may be in the matrices that read it. There the products are compared, in which it makes
no difference: with a norm (w, b) and a matrix and bias (W, c) behind it, `W diag(w)` and `c + W b`.
"""
# D hidden, X the other axes of what a norm feeds

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from convert.apply import layer_of, module_rules
from convert.proof.sides import Side
from convert.rules import neox
from convert.rules.rule import Role
from jaxneox.config.schema import ModelConfig

Leaves = Mapping[str, np.ndarray]

ROUNDINGS = 4
"""In a product of two numbers, each of which is itself a rounded quotient or product."""


def differing(source: Side, target: Side, folded: bool) -> Iterator[tuple[int, int, str]]:
    """(module, numbers compared, what differs or an empty string) for every parameter."""
    indices = list(neox.modules(target.model))
    norms: tuple[Leaves, Leaves] = ({}, {})  # the final norm lies one module before what it feeds
    for index in indices:
        leaves = source.leaves(index), target.leaves(index)
        where = layer_of(index, target.model)
        place = "" if where is None else f"layer {where}: "
        loose = fed(target.model, index) if folded else {}
        for name, found in leaves[1].items():
            if name in loose:
                continue
            yield index, found.size, _exactly(f"{place}{name}", leaves[0][name], found)
        known = {**norms[0], **leaves[0]}, {**norms[1], **leaves[1]}
        for name, norm in loose.items():
            if norm and name in known[1]:
                yield index, known[1][name].size, _product(f"{place}{name}", name, norm, known)
        norms = leaves


def fed(model: ModelConfig, index: int) -> dict[str, str]:
    """Leaves of a module that a norm feeds, with the norm's name; and norms, with none."""
    found = {}
    for rule in module_rules(model, index):
        for leaf in rule.leaves:
            if rule.norm or rule.role is Role.NORM:
                found[leaf] = rule.norm
    return found


def _exactly(where: str, expected: np.ndarray, found: np.ndarray) -> str:
    """The source's numbers, rounded to the target's type where that is narrower."""
    expected = expected.astype(found.dtype)
    differs = (expected != found) & ~((expected != expected) & (found != found))  # NaN is NaN
    if not differs.any():
        return ""
    first = [int(i) for i in np.argwhere(differs)[0]]
    return f"{where}: {int(differs.sum())} of {found.size} elements differ, the first at {first}"


def _product(where: str, name: str, norm: str, known: tuple[Leaves, Leaves]) -> str:
    expected, size = _effective(name, norm, known[0])
    found, _ = _effective(name, norm, known[1])
    eps = float(ml_dtypes.finfo(known[1][name].dtype).eps)
    wrong = ~(abs(found - expected) <= ROUNDINGS * eps * size)
    if not wrong.any():
        return ""
    first = [int(i) for i in np.argwhere(wrong)[0]]
    return (
        f"{where} behind {norm}: {int(wrong.sum())} of {found.size} elements differ by more than "
        f"rounding, the first at {first}"
    )


def _effective(name: str, norm: str, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """`W diag(w)` or `c + W b` in float64, and the size of the terms that it is made of."""
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
"""A bias -> the matrix that it is added to the product of."""
