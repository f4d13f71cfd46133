"""How far two results are apart, as every comparison here measures it."""

from collections.abc import Mapping

import numpy as np


def relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    """`|found - expected| / |expected|` in float64; `|found|` where nothing is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / (scale if scale > 0 else 1.0))


def worst_leaf(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """The largest relative L2 error among the leaves, and the name of its leaf."""
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    return max((relative_l2(found[name], expected[name]), name) for name in expected)
