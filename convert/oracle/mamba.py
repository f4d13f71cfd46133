"""A selective state space in float64, from the tensors that GPT-NeoX and transformers have.

Source: Gu and Dao 2023, algorithm 2, and megatron/model/mamba/mamba.py of GPT-NeoX ea7aefd8.
"""
# B batch, T length, D hidden, C channels, W width of the convolution, N state, Q rank of the steps
# Z = Q + 2 N

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from convert.oracle.maths import Array, f64, linear


@dataclass(frozen=True)
class StateSpace:
    """The weights of one group of channels, in which step sizes, B and C are selected together.

    A matrix has its outputs first. Biases that are not there are 0.
    """

    input_CD: np.ndarray
    gate_CD: np.ndarray
    conv_CW: np.ndarray
    selection_ZC: np.ndarray
    step_CQ: np.ndarray
    step_bias_C: np.ndarray
    a_log_CN: np.ndarray
    skip_C: np.ndarray
    out_DC: np.ndarray
    input_bias_C: Array | float = 0.0
    gate_bias_C: Array | float = 0.0
    conv_bias_C: Array | float = 0.0
    selection_bias_Z: Array | float = 0.0

    def __call__(self, x_BTD: Array) -> Array:
        """Compute the group's term of the layer's output, without its bias."""
        u_BTC = linear(x_BTD, self.input_CD, self.input_bias_C)
        u_BTC = _silu(self._convolved(u_BTC))
        y_BTC = self._scanned(u_BTC) + f64(self.skip_C) * u_BTC
        y_BTC *= _silu(linear(x_BTD, self.gate_CD, self.gate_bias_C))
        return linear(y_BTC, self.out_DC)

    def _convolved(self, u_BTC: Array) -> Array:
        W, T = self.conv_CW.shape[1], u_BTC.shape[1]
        padded = np.concatenate([np.zeros_like(u_BTC[:, :1])] * (W - 1) + [u_BTC], axis=1)
        terms = [padded[:, j : j + T] * f64(self.conv_CW[:, j]) for j in range(W)]
        return np.sum(terms, axis=0) + self.conv_bias_C

    def _scanned(self, u_BTC: Array) -> Array:
        Q, N = self.step_CQ.shape[1], self.a_log_CN.shape[1]
        selected = linear(u_BTC, self.selection_ZC, self.selection_bias_Z)
        r_BTQ, b_BTN, c_BTN = np.split(selected, [Q, Q + N], axis=-1)
        delta_BTC = np.logaddexp(0, linear(r_BTQ, self.step_CQ, f64(self.step_bias_C)))
        a_CN = -np.exp(f64(self.a_log_CN))
        h_BCN = np.zeros((len(u_BTC), *a_CN.shape))
        y_BTC = np.empty_like(u_BTC)
        for t in range(u_BTC.shape[1]):
            delta_BC1 = delta_BTC[:, t, :, None]
            entering = delta_BC1 * u_BTC[:, t, :, None] * b_BTN[:, t, None]
            h_BCN = np.exp(delta_BC1 * a_CN) * h_BCN + entering
            y_BTC[:, t] = np.sum(h_BCN * c_BTN[:, t, None], axis=-1)
        return y_BTC


def _silu(x: Array) -> Array:
    return x * expit(x)
