"""A selective state space in plain torch: token by token, one group of channels after another.

It shares nothing with the JAX model but the configuration and the names of the parameters.

Sources: Gu and Dao 2023, algorithm 2; GPT-NeoX, `megatron/model/mamba/mamba.py`.

Shapes: B batch, T tokens, D hidden, I channels, J channels of a group, N state, R rank of steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from jaxneox.config.mamba_schema import MambaConfig

Shape = tuple[int, ...]


def mamba_shapes(cfg: MambaConfig, D: int) -> dict[str, Shape]:
    """The leaves of one layer's state space."""
    I, N, R = cfg.channels, cfg.state_size, cfg.step_rank
    shapes: dict[str, Shape] = {
        "input": (D, I),
        "gate": (D, I),
        "conv": (cfg.conv_width, I),
        "selection": (I, R + 2 * N),
        "step": (R, I),
        "step_bias": (I,),
        "a_log": (N, I),
        "skip": (I,),
        "out": (I, D),
    }
    if cfg.conv_bias:
        shapes["conv_bias"] = (I,)
    if cfg.bias:
        shapes |= {"input_bias": (I,), "gate_bias": (I,), "out_bias": (D,)}
        shapes["selection_bias"] = (cfg.groups, R + 2 * N)
    return shapes


def mamba(weights: Mapping[str, Tensor], cfg: MambaConfig, x_BTD: Tensor) -> Tensor:
    """The branch's output, with its bias, of a normalised stream [B, T, D]."""

    def biased(y: Tensor, name: str) -> Tensor:
        return y + weights[name] if cfg.bias else y

    u_BTI = biased(x_BTD @ weights["input"], "input_bias")
    z_BTI = biased(x_BTD @ weights["gate"], "gate_bias")
    u_BTI = functional.silu(convolution(weights, cfg, u_BTI))
    J = cfg.channels // cfg.groups
    parts = [
        group(weights, cfg, u_BTI, number, slice(number * J, (number + 1) * J))
        for number in range(cfg.groups)
    ]
    y_BTI = (torch.cat(parts, dim=-1) + weights["skip"] * u_BTI) * functional.silu(z_BTI)
    return biased(y_BTI @ weights["out"], "out_bias")


def convolution(weights: Mapping[str, Tensor], cfg: MambaConfig, u_BTI: Tensor) -> Tensor:
    W, I = cfg.conv_width, cfg.channels
    kernel_I1W = weights["conv"].T[:, None]
    bias_I = weights["conv_bias"] if cfg.conv_bias else None
    y_BIT = functional.conv1d(u_BTI.mT, kernel_I1W, bias_I, padding=W - 1, groups=I)
    return y_BIT[..., : u_BTI.shape[1]].mT


def group(
    weights: Mapping[str, Tensor], cfg: MambaConfig, u_BTI: Tensor, number: int, own: slice
) -> Tensor:
    """What the scan of one group's channels reads, [B, T, J]."""
    N, R = cfg.state_size, cfg.step_rank
    u_BTJ = u_BTI[..., own]
    selected = u_BTJ @ weights["selection"][own]
    if cfg.bias:
        selected = selected + weights["selection_bias"][number]
    steps_BTR, b_BTN, c_BTN = selected.split([R, N, N], dim=-1)
    step = steps_BTR @ weights["step"][:, own] + weights["step_bias"][own]
    delta_BTJ = torch.log1p(torch.exp(step))
    a_JN = -torch.exp(weights["a_log"][:, own].T)
    h_BJN = torch.zeros(len(u_BTI), len(a_JN), N, dtype=u_BTI.dtype)
    read = []
    for t in range(u_BTI.shape[1]):
        entering = (delta_BTJ[:, t] * u_BTJ[:, t])[..., None] * b_BTN[:, t, None]
        h_BJN = torch.exp(delta_BTJ[:, t, :, None] * a_JN) * h_BJN + entering
        read.append((h_BJN * c_BTN[:, t, None]).sum(-1))
    return torch.stack(read, dim=1)
