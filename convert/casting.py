"""Conversion of arrays to another floating-point type: numbers are rounded, never made infinite."""

import ml_dtypes
import numpy as np

from jaxneox.errors import UserError

PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bfloat16"}
"""NeoX's names of the types that weights may have."""

CHOICES = ("keep", "float32", "bfloat16", "float16")


def chosen(asked: str, kept: np.dtype) -> np.dtype:
    """Return the type that `--dtype` selects for a parameter that is stored as `kept`."""
    if asked == "keep":
        return kept
    return np.dtype(ml_dtypes.bfloat16 if asked == "bfloat16" else asked)


def cast(name: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast an array to a type.

    Raises:
        UserError: a finite number would become infinite.
    """
    if value.dtype == dtype:
        return value
    with np.errstate(over="ignore"):
        result = value.astype(dtype)
    lost = np.isfinite(value) & ~np.isfinite(result)
    if lost.any():
        raise UserError(
            f"{name}: has {float(value[lost].flat[0]):g}, which {dtype.name} cannot hold; use "
            "--dtype float32"
        )
    return result


def as_computed(saved: np.ndarray, expected: np.ndarray) -> bool:
    """Tell whether values agree but for the last bits of their type: libraries differ in powers."""
    bits = {2: 7, 4: 20, 8: 20}.get(saved.itemsize)
    return saved.shape == expected.shape and np.allclose(
        saved.astype(np.float64), expected, rtol=2.0 ** -(bits or 20), atol=1e-7
    )
