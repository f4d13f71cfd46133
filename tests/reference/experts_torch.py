"""A mixture of experts in plain torch: every token's experts are called one after the other.

Source of the semantics: GPT-NeoX, `megatron/model/moe/{router,moe,moe_mlp}.py`; capacity and the
routers' losses are jaxneox's own, as docs/layers.md has them.

Shapes: B batch, T tokens, D hidden, E experts, F inner width, k choices of a token.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jaxneox.config.layer_schema import ExpertsConfig

Params = Mapping[str, Tensor]
Activation = Callable[[Tensor], Tensor]


def experts_shapes(cfg: ExpertsConfig, D: int) -> dict[str, tuple[int, ...]]:
    """The leaves of one mixture."""
    E, F, S = cfg.count, cfg.size, cfg.shared * cfg.size
    names = ("up", "gate") if cfg.gated else ("up",)
    shapes: dict[str, tuple[int, ...]] = {"router.weight": (D, E)}
    shapes |= {name: (E, D, F) for name in names} | {"down": (E, F, D)}
    if S:
        shapes |= {f"shared.{name}": (D, S) for name in names} | {"shared.down": (S, D)}
    return shapes


def mixture(
    weights: Params, cfg: ExpertsConfig, activation: Activation, x_BTD: Tensor, training: bool
) -> tuple[Tensor, Tensor]:
    """The mixture's output [B, T, D], and the losses of each row with their coefficients, [B]."""
    z_BTE = x_BTD @ weights["router.weight"]
    sigmoid = cfg.router == "sinkhorn" and cfg.top_k == 1
    scores_BTE = torch.sigmoid(z_BTE) if sigmoid else torch.softmax(z_BTE, -1)
    ranked = scores_BTE
    if training and cfg.router == "sinkhorn":
        groups = z_BTE.detach().reshape(-1, cfg.sinkhorn_rows * z_BTE.shape[1], cfg.count)
        ranked = torch.stack([sinkhorn(z) for z in groups]).reshape(z_BTE.shape)
    choices_BTk = torch.topk(ranked, cfg.top_k, dim=-1).indices
    p_BTk = torch.gather(scores_BTE, 2, choices_BTk)
    if cfg.normalized:
        p_BTk = p_BTk / p_BTk.sum(-1, keepdim=True)
    kept = _kept(choices_BTk, cfg) if training else None
    rows = []
    for b in range(x_BTD.shape[0]):
        for t in range(x_BTD.shape[1]):
            x_D, y_D = x_BTD[b, t], torch.zeros_like(x_BTD[b, t])
            for j in range(cfg.top_k):
                if kept is None or kept[b][t][j]:
                    e = int(choices_BTk[b, t, j])
                    own = {n: weights[n][e] for n in ("up", "gate", "down") if n in weights}
                    y_D = y_D + p_BTk[b, t, j] * _mlp(own, activation, x_D)
            rows.append(y_D)
    y_BTD = torch.stack(rows).reshape(x_BTD.shape)
    if cfg.shared:
        shared = {n.removeprefix("shared."): w for n, w in weights.items() if "shared." in n}
        y_BTD = y_BTD + _mlp(shared, activation, x_BTD)
    return y_BTD, losses(z_BTE, choices_BTk, cfg)


def sinkhorn(z_nE: Tensor) -> Tensor:
    """Balance the scores of n tokens; the loop is NeoX's."""
    c, (n, E) = z_nE.exp(), z_nE.shape
    d1 = 1 / (E * c.sum(0))
    for _ in range(3):
        before = d1
        d0 = (1 / n) / ((d1 * c).sum(1) + 1e-8)
        d1 = (1 / E) / ((d0[:, None] * c).sum(0) + 1e-8)
        if (before - d1).abs().mean() < 1e-4:
            break
    return d1 * c * d0[:, None]


def losses(z_BTE: Tensor, choices_BTk: Tensor, cfg: ExpertsConfig) -> Tensor:
    """The losses of balance and of large logits of each row."""
    found = []
    for z_TE, choices_Tk in zip(z_BTE, choices_BTk, strict=True):
        share_E = torch.bincount(choices_Tk.flatten(), minlength=cfg.count) / choices_Tk.numel()
        balance = cfg.count * (share_E * torch.softmax(z_TE, -1).mean(0)).sum()
        large = (torch.logsumexp(z_TE, -1) ** 2).mean()
        found.append(cfg.balance_loss * balance + cfg.z_loss * large)
    return torch.stack(found)


def _mlp(weights: Params, activation: Activation, x: Tensor) -> Tensor:
    if "gate" in weights:
        return (activation(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]
    return activation(x @ weights["up"]) @ weights["down"]


def _kept(choices_BTk: Tensor, cfg: ExpertsConfig) -> list[list[list[bool]]] | None:
    """Which choices an expert takes: all first choices come before all second ones."""
    if cfg.capacity_factor is None:
        return None
    B, T, k = choices_BTk.shape
    most = math.ceil(cfg.capacity_factor * T * k / cfg.count)
    kept = [[[False] * k for _ in range(T)] for _ in range(B)]
    for b in range(B):
        taken = [0] * cfg.count
        for j in range(k):
            for t in range(T):
                e = int(choices_BTk[b, t, j])
                kept[b][t][j] = taken[e] < most
                taken[e] += 1
    return kept
