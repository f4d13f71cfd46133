"""GPT-NeoX's forward pass on one device in plain torch: pure functions of a flat parameter dict.

It shares nothing with the JAX model but the configuration and the names of the parameters. It is
written for plainness, not speed: keys and values are repeated to all query heads, and the layers
are a Python loop. In float64 it is the truth that float32 results are measured against.

Source of the semantics: GPT-NeoX, `megatron/model/{transformer,norms,positional_embeddings,
activations,word_embeddings,gpt2_model}.py` and `megatron/mpu/layers.py`, at model parallel size 1.

Shapes: B batch, T tokens (queries), S tokens (keys), D hidden, V padded vocabulary, K key-value
heads, G query heads per key-value head, N = K*G query heads, H head dim, F MLP branch width.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jaxneox.config.schema import (
    AttentionConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
)
from tests.reference import rope_scaling
from tests.reference.experts_torch import mixture
from tests.reference.mamba_torch import mamba

Params = Mapping[str, Tensor]

# Torch's idle threads spin against XLA's: with more than one, tiny models take 50 times as long.
torch.set_num_threads(1)

HOLDERS = {"mamba": ("mamba",), "mlp": ("dense",), "experts": ("experts",)}
"""The kinds of layers that have the parameters of a branch; others belong to attention."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    # NeoX rounds sqrt(2/pi) to eight digits.
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
    "mish": lambda x: x * torch.tanh(functional.softplus(x)),
    "softsign": lambda x: x / (1 + x.abs()),
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


def forward(
    params: Params, cfg: ModelConfig, tokens_BT: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Logits [B, T, V] in `dtype`, of int64 tokens [B, T]; differentiable in `params`.

    Of a reward model: its values [B, T].
    """
    return logits_and_losses(params, cfg, tokens_BT, False, dtype)[0]


def logits_and_losses(
    params: Params,
    cfg: ModelConfig,
    tokens_BT: Tensor,
    training: bool,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """What `forward` returns, and the sum over layers of the routers' losses of each row, [B]."""
    of_rows_B = torch.zeros(tokens_BT.shape[0], dtype=dtype)
    params = {name: leaf.to(dtype) for name, leaf in params.items()}
    x_BTD = embed(params, cfg, tokens_BT)
    bias_NTS = score_bias(params, cfg, tokens_BT.shape[1], dtype)
    for index in range(cfg.num_layers):
        layer = layer_of(params, cfg, index)
        if cfg.kinds[index] == "mamba":
            assert cfg.mamba is not None
            entering = normalize(x_BTD, within(layer, "norm1"), cfg.norm)
            x_BTD = x_BTD + mamba(within(layer, "mamba"), cfg.mamba, entering)
        else:
            x_BTD, of_layer_B = block(layer, cfg, x_BTD, bias_NTS, training)
            of_rows_B = of_rows_B + of_layer_B
    x_BTD = normalize(x_BTD, within(params, "final_norm"), cfg.norm) * cfg.multipliers.output
    if cfg.head == "reward":
        return (x_BTD @ params["reward.weight"])[..., 0], of_rows_B
    weight_DV = params["embed.tokens"].T if cfg.tied_embedding else params["unembed.weight"]
    logits_BTV = x_BTD @ weight_DV
    return logits_BTV + params["unembed.bias"] if cfg.logit_bias else logits_BTV, of_rows_B


def loss(
    params: Params,
    cfg: ModelConfig,
    tokens_BT: Tensor,
    labels_BT: Tensor,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Mean cross-entropy in nats over all positions; the softmax spans the padded vocabulary."""
    logits_BTV = forward(params, cfg, tokens_BT, dtype)
    return functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten())


def loss_and_grads(
    params: Mapping[str, np.ndarray], cfg: ModelConfig, tokens_BT: np.ndarray, labels_BT: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the gradient of every leaf, in float64, for arrays of numpy."""
    leaves = {
        name: torch.tensor(leaf, dtype=torch.float64, requires_grad=True)
        for name, leaf in params.items()
    }
    value = loss(leaves, cfg, as_tokens(tokens_BT), as_tokens(labels_BT))
    # An attention that is dropped has no part in the loss; any other leaf without one is an error.
    idle = len(cfg.attending) + cfg.kinds.count("mamba") < cfg.num_layers
    grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=idle)
    return value.item(), {name: g.numpy() for name, g in zip(leaves, grads, strict=True)}


def logits(params: Mapping[str, np.ndarray], cfg: ModelConfig, tokens_BT: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] in float64, for arrays of numpy."""
    with torch.no_grad():
        tensors = {name: torch.tensor(leaf) for name, leaf in params.items()}
        return forward(tensors, cfg, as_tokens(tokens_BT)).numpy()


def as_tokens(tokens: np.ndarray) -> Tensor:
    return torch.tensor(tokens, dtype=torch.int64)


def within(params: Params, prefix: str) -> dict[str, Tensor]:
    """The leaves under `prefix`, with their names from there on."""
    return {
        name.removeprefix(f"{prefix}."): leaf
        for name, leaf in params.items()
        if name.startswith(f"{prefix}.")
    }


def layer_of(params: Params, cfg: ModelConfig, index: int) -> dict[str, Tensor]:
    """The leaves of one layer; each is stacked over the layers that have it."""
    own: dict[str, Tensor] = {}
    for name, leaf in within(params, "layers").items():
        having = (
            cfg.kinds
            if name.startswith("norm1")
            else HOLDERS.get(name.split(".")[0], ("dense", "experts"))
        )
        numbers = [n for n, kind in enumerate(cfg.kinds) if kind in having]
        if index in numbers:
            own[name] = leaf[numbers.index(index)]
    return own


def embed(params: Params, cfg: ModelConfig, tokens_BT: Tensor) -> Tensor:
    x_BTD, factor = params["embed.tokens"][tokens_BT], cfg.multipliers.positions
    x_BTD = cfg.multipliers.embedding * x_BTD
    T = tokens_BT.shape[1]
    if cfg.positions.kind == "learned":
        rows_TD = params["embed.positions"][torch.arange(T) + cfg.positions.offset]
        x_BTD = x_BTD + factor * rows_TD
    if cfg.positions.kind == "sinusoidal":
        # All sines, then all cosines; NeoX ignores the offset here.
        angles = position_angles(T, cfg.hidden_size, 10000.0, x_BTD.dtype)
        x_BTD = x_BTD + factor * torch.cat([angles.sin(), angles.cos()], dim=-1)
    return x_BTD


def block(
    layer: Params, cfg: ModelConfig, x_BTD: Tensor, bias_NTS: Tensor, training: bool = False
) -> tuple[Tensor, Tensor]:
    """One layer with attention, and its router's losses of each row."""
    losses_B = torch.zeros(x_BTD.shape[0], dtype=x_BTD.dtype)

    def norm(name: str, x: Tensor) -> Tensor:
        return normalize(x, within(layer, name), cfg.norm)

    def attend(x: Tensor) -> Tensor:
        return attention(within(layer, "attention"), cfg, x, bias_NTS)

    def transform(x: Tensor) -> Tensor:
        nonlocal losses_B
        if "experts.up" not in layer:
            return mlp(within(layer, "mlp"), cfg.mlp, x)
        assert cfg.experts is not None
        function = ACTIVATIONS[cfg.experts.activation]
        y, losses_B = mixture(within(layer, "experts"), cfg.experts, function, x, training)
        return y

    if cfg.parallel_residual:
        second = "norm1" if cfg.shared_norm else "norm2"
        branch_BTD = transform(norm(second, x_BTD))
        times = cfg.experts.residual_quirk if cfg.experts and "experts.up" in layer else 0
        if times:
            return x_BTD + times * branch_BTD, losses_B
        dropped = cfg.attention_dropped and "mlp.up" in layer
        y_BTD = x_BTD + branch_BTD
        return y_BTD if dropped else y_BTD + attend(norm("norm1", x_BTD)), losses_B
    # gpt-j-tied has a meaning only where both branches read the same residual.
    assert not cfg.shared_norm
    x_BTD = x_BTD + attend(norm("norm1", x_BTD))
    y_BTD = x_BTD + transform(norm("norm2", x_BTD))
    return y_BTD, losses_B


def normalize(x: Tensor, weights: Params, cfg: NormConfig, joint_axes: int = 1) -> Tensor:
    """Normalises the last axis; the layernorm kinds the last `joint_axes` axes together."""
    if cfg.kind == "scalenorm":
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return weights["g"] * x / length.clamp(min=cfg.epsilon)
    if cfg.kind == "rmsnorm":
        mean_square = (x * x).mean(-1, keepdim=True)
        return weights["scale"] * x / torch.sqrt(mean_square + cfg.epsilon)
    axes = tuple(range(-joint_axes, 0))
    centred = x - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    y = centred / torch.sqrt(variance + cfg.epsilon)
    if cfg.kind == "layernorm":
        y = y * weights["scale"]
        y = y + weights["bias"] if cfg.bias else y
    return y


def attention(weights: Params, cfg: ModelConfig, x_BTD: Tensor, bias_NTS: Tensor) -> Tensor:
    q_BTNH, k_BSNH, v_BSNH = queries_keys_values(weights, cfg.attention, x_BTD)
    if cfg.attention.qk_norm:
        qk_norm = {
            name: leaf if name == "g" else leaf.flatten(0, 1)  # [K,G,H] -> [N,H]
            for name, leaf in within(weights, "qk_norm").items()
        }
        q_BTNH = normalize(q_BTNH, qk_norm, cfg.norm, joint_axes=2)
        k_BSNH = normalize(k_BSNH, qk_norm, cfg.norm, joint_axes=2)
    if cfg.attention.qk_norm_per_head:
        q_BTNH = normalize(q_BTNH, within(weights, "q_norm"), cfg.norm)
        k_BSNH = normalize(k_BSNH, within(weights, "k_norm"), cfg.norm)
    if cfg.attention.qk_norm_joint:
        q_BTNH = normalize_joint(q_BTNH, weights["q_norm.scale"], cfg.norm.epsilon)
        k_BSKH = k_BSNH[:, :, :: cfg.attention.group]  # before they are repeated
        k_BSKH = normalize_joint(k_BSKH, weights["k_norm.scale"], cfg.norm.epsilon)
        k_BSNH = k_BSKH.repeat_interleave(cfg.attention.group, dim=2)
    if cfg.positions.kind == "rotary":
        q_BTNH, k_BSNH = rotate(q_BTNH, cfg.positions), rotate(k_BSNH, cfg.positions)
    scale = cfg.attention.scale or 1 / math.sqrt(q_BTNH.shape[-1])
    scores_BNTS = torch.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) * scale
    probs_BNTS = torch.softmax(scores_BNTS + bias_NTS, dim=-1)
    mixed_BTNH = torch.einsum("BNTS,BSNH->BTNH", probs_BNTS, v_BSNH)
    out_NHD = weights["out"].flatten(0, 1)
    y_BTD = torch.einsum("BTNH,NHD->BTD", mixed_BTNH, out_NHD)
    return y_BTD + weights["out_bias"] if cfg.attention.biased_output else y_BTD


def normalize_joint(x_BTNH: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over all heads of a token together."""
    square = x_BTNH.square().mean(dim=(-2, -1), keepdim=True)
    return x_BTNH / torch.sqrt(square + epsilon) * scale.reshape(x_BTNH.shape[2:])


def queries_keys_values(
    weights: Params, cfg: AttentionConfig, x_BTD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors [B, T, N, H]: each key-value head is repeated for the queries that read it."""
    qkv_BTKJH = torch.einsum("BTD,DKJH->BTKJH", x_BTD, weights["qkv"])
    if cfg.bias:
        qkv_BTKJH = qkv_BTKJH + weights["qkv_bias"]
    q_BTKGH, k_BTKH, v_BTKH = (
        qkv_BTKJH[..., : cfg.group, :],
        qkv_BTKJH[..., cfg.group, :],
        qkv_BTKJH[..., cfg.group + 1, :],
    )
    k_BTNH, v_BTNH = (x.repeat_interleave(cfg.group, dim=2) for x in (k_BTKH, v_BTKH))
    return q_BTKGH.flatten(2, 3), k_BTNH, v_BTNH


def mlp(weights: Params, cfg: MlpConfig, x_BTD: Tensor) -> Tensor:
    def project(x: Tensor, name: str) -> Tensor:
        y = x @ weights[name]
        return y + weights[f"{name}_bias"] if cfg.bias else y

    activation, up_BTF = ACTIVATIONS[cfg.activation], project(x_BTD, "up")
    if cfg.gated:
        return project(activation(project(x_BTD, "gate")) * up_BTF, "down")
    return project(activation(up_BTF), "down")


def position_angles(T: int, width: int, base: float, dtype: torch.dtype) -> Tensor:
    """Angles [T, width/2]: position t turns pair i by `t * base ** (-2i / width)`."""
    frequencies = base ** (-torch.arange(0, width, 2, dtype=dtype) / width)
    return torch.outer(torch.arange(T, dtype=dtype), frequencies)


def rotate(x_BTNH: Tensor, cfg: PositionConfig) -> Tensor:
    """Turns the first `int(H * fraction)` dims, dim i of their first half with i of the second."""
    width = int(x_BTNH.shape[-1] * cfg.rotary_fraction)
    T, scaling = x_BTNH.shape[1], cfg.scaling
    base = rope_scaling.base(T, width, cfg)
    angles_TR = position_angles(T, width, base, x_BTNH.dtype)
    angles_TR = angles_TR * rope_scaling.slowed(width, cfg, x_BTNH.dtype)
    cos, sin = (scaling.attention_factor * x[:, None] for x in (angles_TR.cos(), angles_TR.sin()))
    a, b, rest = x_BTNH.split([width // 2, width // 2, x_BTNH.shape[-1] - width], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def score_bias(params: Params, cfg: ModelConfig, T: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scaled scores [N or 1, T, T]: -inf where hidden, and alibi or rpe."""
    distance_TS = torch.arange(T)[:, None] - torch.arange(T)[None, :]
    hidden_TS = distance_TS < 0
    if cfg.attention.window is not None:
        hidden_TS |= distance_TS > cfg.attention.window
    bias_NTS = torch.zeros(1, T, T, dtype=dtype)
    if cfg.positions.kind == "alibi":
        slopes_N = torch.tensor(alibi_slopes(cfg.attention.num_heads), dtype=dtype)
        bias_NTS = -slopes_N[:, None, None] * distance_TS
    if cfg.positions.kind == "rpe":
        table_NR = params["embed.rpe"].flatten(1).T
        # The table is scaled up by sqrt(H): it stands for scores before their scaling.
        bias_NTS = table_NR[:, rpe_buckets(distance_TS, cfg.positions)]
        bias_NTS = bias_NTS * math.sqrt(cfg.attention.head_dim)
    return bias_NTS.masked_fill(hidden_TS, -math.inf)


def alibi_slopes(heads: int) -> list[float]:
    """`2 ** (-8 i / n)` for i = 1..n heads; the heads beyond a power of two take the odd slopes of
    twice as many (Press et al., 2021)."""
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8 * (i + 0.5) / power) for i in range(power)]
    return slopes + between[: heads - power]


def rpe_buckets(distance: Tensor, cfg: PositionConfig) -> Tensor:
    """T5's causal buckets: half of them exact, half logarithmic up to `rpe_max_distance`.

    The logarithm is float32 whatever the model's dtype, as in NeoX: near a bucket's edge the
    rounding decides.
    """
    exact = cfg.rpe_buckets // 2
    past = distance.clamp(min=0)
    ratio = torch.log(past.clamp(min=1).float() / exact) / math.log(cfg.rpe_max_distance / exact)
    coarse = exact + (ratio * (cfg.rpe_buckets - exact)).long()
    return torch.where(past < exact, past, coarse.clamp(max=cfg.rpe_buckets - 1))
