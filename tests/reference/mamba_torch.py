"""A selective state space in plain torch: token by token, one group of channels after another.

It shares nothing with the JAX model but the configuration and the names of the parameters.

Sources: Gu and Dao 2023, algorithm 2; GPT-NeoX, `megatron/model/mamba/mamba.py`.

Shapes: B batch, T tokens, D hidden, C channels, J channels of a group, N state, R rank of steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from jaxneox.config.mamba_schema import MambaConfig

Shape = tuple[int, ...]


def mamba_shapes(cfg: MambaConfig, D: int) -> dict[str, Shape]:
    """The leaves of one layer's state space."""
    C, N, R = cfg.channels, cfg.state_size, cfg.step_rank
    shapes: dict[str, Shape] = {
        "input": (D, C),
        "gate": (D, C),
        "conv": (cfg.conv_width, C),
        "selection": (C, R + 2 * N),
        "step": (R, C),
        "step_bias": (C,),
        "a_log": (N, C),
        "skip": (C,),
        "out": (C, D),
    }
    if cfg.conv_bias:
        shapes["conv_bias"] = (C,)
    if cfg.bias:
        shapes |= {"input_bias": (C,), "gate_bias": (C,), "out_bias": (D,)}
        shapes["selection_bias"] = (cfg.groups, R + 2 * N)
    return shapes


def mamba(weights: Mapping[str, Tensor], cfg: MambaConfig, x_BTD: Tensor) -> Tensor:
    """The branch's output, with its bias, of a normalised stream [B, T, D]."""

    def biased(y: Tensor, name: str) -> Tensor:
        return y + weights[name] if cfg.bias else y

    u_BTC = biased(x_BTD @ weights["input"], "input_bias")
    z_BTC = biased(x_BTD @ weights["gate"], "gate_bias")
    u_BTC = functional.silu(convolution(weights, cfg, u_BTC))
    J = cfg.channels // cfg.groups
    parts = [
        group(weights, cfg, u_BTC, number, slice(number * J, (number + 1) * J))
        for number in range(cfg.groups)
    ]
    y_BTC = (torch.cat(parts, dim=-1) + weights["skip"] * u_BTC) * functional.silu(z_BTC)
    return biased(y_BTC @ weights["out"], "out_bias")


def convolution(weights: Mapping[str, Tensor], cfg: MambaConfig, u_BTC: Tensor) -> Tensor:
    W, C = cfg.conv_width, cfg.channels
    kernel_C1W = weights["conv"].T[:, None]
    bias_C = weights["conv_bias"] if cfg.conv_bias else None
    y_BCT = functional.conv1d(u_BTC.mT, kernel_C1W, bias_C, padding=W - 1, groups=C)
    return y_BCT[..., : u_BTC.shape[1]].mT


def group(
    weights: Mapping[str, Tensor], cfg: MambaConfig, u_BTC: Tensor, number: int, own: slice
) -> Tensor:
    """What the scan of one group's channels reads, [B, T, J]."""
    N, R = cfg.state_size, cfg.step_rank
    u_BTJ = u_BTC[..., own]
    selected = u_BTJ @ weights["selection"][own]
    if cfg.bias:
        selected = selected + weights["selection_bias"][number]
    steps_BTR, b_BTN, c_BTN = selected.split([R, N, N], dim=-1)
    step = steps_BTR @ weights["step"][:, own] + weights["step_bias"][own]
    delta_BTJ = torch.log1p(torch.exp(step))
    a_JN = -torch.exp(weights["a_log"][:, own].T)
    h_BJN = torch.zeros(len(u_BTC), len(a_JN), N, dtype=u_BTC.dtype)
    read = []
    for t in range(u_BTC.shape[1]):
        entering = (delta_BTJ[:, t] * u_BTJ[:, t])[..., None] * b_BTN[:, t, None]
        h_BJN = torch.exp(delta_BTJ[:, t, :, None] * a_JN) * h_BJN + entering
        read.append((h_BJN * c_BTN[:, t, None]).sum(-1))
    return torch.stack(read, dim=1)
