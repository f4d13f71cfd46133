"""A bias on the logits in NeoX's form: part of the ranks' copies of the final norm's bias."""
# D hidden, V padded vocabulary

import numpy as np

from jaxneox.errors import UserError

REST = 1e-6
"""Tolerated relative residual: a stored float32 bias is within 6e-8 of its exact value."""


def unfolded(weight_DV: np.ndarray, bias_V: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Find what each rank's copy has beyond the one norm's bias, float64 [D] each.

    The bias came from copies that had drifted: rank r's rows of it are W_r d_r. For the original
    number of ranks, or a multiple, d_r can be recovered, and NeoX, in which each rank applies its
    own copy, has the function.

    Raises:
        UserError: no such copies exist for this number of ranks.
    """
    shifts = []
    for own in np.split(np.arange(len(bias_V)), ranks):
        own_VD, own_V = (x.astype(np.float64) for x in (weight_DV[:, own].T, bias_V[own]))
        shift_D, rest = solved(own_VD, own_V)
        if rest > REST:
            raise UserError(
                f"--mp {ranks}: the model has a bias on its logits, from copies of the final norm "
                "that had drifted between NeoX's ranks; NeoX can have it only with as many ranks "
                "again, or a multiple (from_neox --norms mean makes a model without it, at a "
                "stated cost)"
            )
        shifts.append(shift_D)
    return shifts


def solved(weight_VD: np.ndarray, bias_V: np.ndarray) -> tuple[np.ndarray, float]:
    """Solve W d = c by least squares, refined once; also return the relative residual."""
    square_DD = weight_VD.T @ weight_VD
    shift_D = np.zeros(weight_VD.shape[1])
    for _ in range(2):
        rest_V = bias_V - weight_VD @ shift_D
        shift_D += np.linalg.lstsq(square_DD, weight_VD.T @ rest_V, rcond=None)[0]
    rest = np.linalg.norm(bias_V - weight_VD @ shift_D)
    return shift_D, float(rest / (np.linalg.norm(bias_V) or 1.0))
