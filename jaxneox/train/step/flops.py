"""How many floating-point operations a token costs, and how many a device could do."""

import math
import time
from collections.abc import Collection

import jax
import numpy as np

from jaxneox.config.schema import ModelConfig

# Dense bfloat16 peaks of one device in FLOP/s, from the makers' data sheets.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v3": 61.5e12,  # one core of a chip
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


OF_EXPERTS = {f"layers.experts.{name}" for name in ("up", "gate", "down")}


def matrix_parameters(shapes: dict[str, tuple[int, ...]], cfg: ModelConfig) -> int:
    """Count the parameters that are multiplied with every token.

    These are all but the tables that are looked up and an attention that is dropped. A tied
    embedding counts, since it is multiplied as the unembedding; of experts those that a token
    chooses.
    """
    idle = {"embed.positions"} | (set() if cfg.tied_embedding else {"embed.tokens"})
    if cfg.attention_dropped:
        idle |= {name for name in shapes if name.startswith("layers.attention.")}
    chosen = 1.0 if cfg.experts is None else cfg.experts.top_k / cfg.experts.count

    def share(name: str) -> float:
        """Return what part of a parameter a token meets: its own experts' of all experts'."""
        return chosen if name in OF_EXPERTS else 1.0

    counted = (share(name) * math.prod(s) for name, s in shapes.items() if name not in idle)
    return round(sum(counted))


def flops_per_token(
    shapes: dict[str, tuple[int, ...]], cfg: ModelConfig, trained: Collection[str] | None = None
) -> float:
    """Count the operations of a token, forward and backward.

    They are 6 for each parameter that is multiplied, and 12 T for each layer's width of heads
    with attention (Chowdhery et al. 2022, appendix B; the causal half is not taken off). The scans
    of mamba layers, which are no products of matrices, do not count. Of the 6 forward takes 2,
    the parameter's gradient 2, which one that is not trained has not, and 2 the gradient of what
    comes in, which is made if anything is trained in the layers or before them.

    Args:
        shapes: of all parameters by name.
        cfg: the architecture.
        trained: the names of the parameters that are; all of them unless given.
    """
    learning = shapes.keys() if trained is None else trained
    passed_on = 2 * any(name.startswith(("embed.", "layers.")) for name in learning)
    all_matrices = matrix_parameters(shapes, cfg)
    others = {name: shape for name, shape in shapes.items() if name not in learning}
    resting = matrix_parameters(others, cfg)
    width = cfg.attention.num_heads * cfg.attention.head_dim
    attention = (4 + 4 * passed_on) * len(cfg.attending) * width * cfg.seq_length
    return (4.0 + passed_on) * all_matrices - 2.0 * resting + attention


def forward_flops_per_token(shapes: dict[str, tuple[int, ...]], cfg: ModelConfig) -> float:
    """Count the operations of a token in a forward pass alone, as `flops_per_token` does."""
    return flops_per_token(shapes, cfg, trained=())


def peak_flops(devices: list[jax.Device]) -> float | None:
    """Return the peak FLOP/s of all devices together; None for a kind that the table lacks.

    A CPU's peak is measured, since virtual devices share it.
    """
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        return measured_peak()
    known = [peak for name, peak in PEAKS.items() if kind.startswith(name)]
    return len(devices) * known[0] if known else None


def measured_peak(size: int = 1024) -> float:
    """Time a few float32 matrix products on one device, in all 50 ms, and take the best."""
    a = jax.device_put(np.ones((size, size), np.float32))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()

    def seconds() -> float:
        start = time.perf_counter()
        product(a).block_until_ready()
        return time.perf_counter() - start

    return 2 * size**3 / min(seconds() for _ in range(3))
