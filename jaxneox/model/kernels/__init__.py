"""Attention's kernels: one function in several forms, and the choice between them.

- `einsum`: the formula; dropout and learned biases (rpe) are here alone.
- `blocked`: scores block by block in plain XLA; on CPUs and TPUs, and on GPUs what cudnn lacks.
- `cudnn`: NVIDIA's fused kernel, for half precision; packed documents if the YAML asks for it.
- `splash`: the TPU's Pallas kernel, if the YAML asks for it.

`opaque` has what the last two share, `absent_gpu` the GPU that cuDNN's are compiled for.
"""
# B batch, T and S length, K key-value heads, G query heads for each of them, H head

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.layer_schema import Kernel
from jaxneox.config.schema import AttentionConfig
from jaxneox.errors import UserError
from jaxneox.model.dropout import Noise
from jaxneox.model.kernels import cudnn, opaque, splash
from jaxneox.model.kernels.blocked import blocked
from jaxneox.model.kernels.einsum import attend, same, visible
from jaxneox.model.layout import Layout, platform
from jaxneox.model.positions import Alibi


@dataclass(frozen=True)
class Extra:
    """The inputs that change the scores besides queries and keys.

    Attributes:
        alibi: adds its slopes times the distance.
        bias: added to the scores, [1, K, G, T, S], learned (rpe).
        documents_BT: the documents' numbers; no token sees another document.
    """

    alibi: Alibi | None = None
    bias: jax.Array | None = None
    documents_BT: jax.Array | None = None

    @property
    def slopes_KG(self) -> np.ndarray | None:
        return None if self.alibi is None else self.alibi.slopes_KG

    def whole(self, positions_T: jax.Array) -> jax.Array | None:
        """Compute all that is added to the scores: float32 [1, K, G, T, S], or None."""
        return self.bias if self.alibi is None else self.alibi(positions_T, positions_T)


def mix(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions_T: jax.Array,
    extra: Extra,
    noise: Noise | None,
    cfg: AttentionConfig,
    layout: Layout,
) -> jax.Array:
    """Let each head read: softmax(q k) v, by the kernel that fits.

    Args:
        q: queries [B, T, K, G, H].
        k: keys [B, T, K, (G,) H].
        v: values [B, T, K, H].
        positions_T: positions in the row, in the layout's order.
        extra: what changes the scores.
        noise: the source of dropout masks, or None.
        cfg: the attention's sizes, window, dropout and kernel.
        layout: how arrays lie on the devices.

    Returns:
        [B, T, K, G, H].
    """
    match choose(cfg, q.shape[1], q.dtype, extra, noise, layout):
        case "einsum":
            mask = visible(positions_T, positions_T, cfg.window)
            if extra.documents_BT is not None:
                mask &= same(extra.documents_BT, layout)
            return attend(q, k, v, mask, extra.whole(positions_T), noise, cfg)
        case "blocked":
            return blocked(q, k, v, positions_T, extra.slopes_KG, extra.documents_BT, cfg, layout)
        case "splash":
            return splash.fused(q, k, v, extra.documents_BT, cfg, layout)
        case "cudnn":
            return cudnn.fused(q, k, v, positions_T, extra.documents_BT, cfg, layout)


def choose(
    cfg: AttentionConfig,
    length: int,
    dtype: jnp.dtype,
    extra: Extra,
    noise: Noise | None,
    layout: Layout,
) -> Kernel:
    """Choose the kernel for rows of this length, on the platform that is traced for.

    Raises:
        UserError: the kernel that the YAML asks for cannot compute what the model needs.
    """
    on = platform()
    drops = noise is not None and cfg.dropout > 0
    unsupported: dict[Kernel, str | None] = {
        "einsum": None,
        "blocked": "dropout" if drops else "learned biases" if extra.bias is not None else None,
    }
    plain = unsupported["blocked"] or ("alibi" if extra.alibi is not None else None)
    plain = plain or opaque.unsupported(cfg, layout)
    nvidia = None if on == "gpu" else f"program for a {on}"
    full = "float32" if dtype == jnp.float32 else None
    packed = extra.documents_BT is not None
    unsupported["cudnn"] = nvidia or plain or full or cudnn.unsupported(cfg, length, packed)
    google = "program for a gpu" if on == "gpu" else None  # a CPU interprets it
    unsupported["splash"] = google or plain or splash.unsupported(cfg, length)
    if cfg.kernel != "auto":
        if missing := unsupported[cfg.kernel]:
            able = ", ".join(name for name, reason in unsupported.items() if reason is None)
            raise UserError(
                f"attention_kernel: {cfg.kernel} has no {missing}, which this run needs; expected "
                f"auto, or one of {able}"
            )
        return cfg.kernel
    # cudnn's packed layout has not run on a GPU yet: `python -m tests.bench.packed` compares it
    order: tuple[Kernel, ...] = ("blocked",) if packed or on != "gpu" else ("cudnn", "blocked")
    return next((name for name in order if unsupported[name] is None), "einsum")
