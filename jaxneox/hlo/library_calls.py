"""FLOPs of the custom calls by which a GPU's program has NVIDIA's libraries compute.

Products that are not compiled are calls of cuBLAS (`__cublas$gemm`, `__cublas$lt$matmul`, and
`__cublas$lt$matmul$f8` in fp8), and fused attention is a call of cuDNN (`__cudnn$fmhaSoftmax` and
others of its name). What they compute stands in the call's `backend_config`: XLA's
`GemmBackendConfig` and `CudnnfMHABackendConfig` (xla/service/gpu/backend_configs.proto).
"""

import math
import re

from jaxneox.hlo.text import Instruction, arrays, elements, main_memory_bytes

Shapes = dict[str, str]


def target_of(this: Instruction) -> str:
    """Return whom a custom call calls; "" of another instruction."""
    found = re.search(r'custom_call_target="([^"]*)"', this.rest)
    return found[1] if found and this.opcode == "custom-call" else ""


def call_flops(this: Instruction, shapes: Shapes) -> int:
    """Count the FLOPs of a call of cuBLAS or cuDNN's attention; 0 for any other."""
    target = target_of(this)
    if target.startswith("__cublas$"):
        return _product(this, shapes)
    if target.startswith("__cudnn$fmha"):
        return _attention(this, backward="Backward" in target)
    return 0


def written_bytes(this: Instruction) -> int:
    """Count the bytes of a call's results, without the workspace that it takes beside them."""
    if not this.shape.startswith("("):
        return main_memory_bytes(this.shape)
    parts = elements(this.shape)
    return sum(map(main_memory_bytes, parts if workspace_bytes(this) is None else parts[:-1]))


def workspace_bytes(this: Instruction) -> int | None:
    """Return the bytes of a call's workspace, the last of its results; None if it has none."""
    if not target_of(this).startswith("__cu") or not this.shape.startswith("("):
        return None
    last = elements(this.shape)[-1]
    return main_memory_bytes(last) if re.search(r"\b[su]8\[\d+\]", last) else None


def _product(this: Instruction, shapes: Shapes) -> int:
    result = arrays(this.shape)[0][1]
    left = arrays(shapes[this.operands[0]])[0][1]
    summed = _listed(this.rest, "lhs_contracting_dimensions")
    return 2 * math.prod(result) * math.prod(left[i] for i in summed)


def _attention(this: Instruction, *, backward: bool) -> int:
    """Count two products of scores and heads, or the five of the backward pass.

    Of masked scores nothing counts, as whole blocks of them are left out.

    Source: Dao 2023, FlashAttention-2, sections 2.2 and 4.1 (for the five: scores again, and the
    gradients of values, weights, queries and keys).
    """
    batch, heads, length, keys = _listed(this.rest, "dimensions")
    first = arrays(this.shape)[0][1]  # the output, or the queries' gradient: alike in size
    width = math.prod(first) // (batch * heads * length)
    pairs = batch * heads * _seen(this.rest, length, keys)
    return (5 if backward else 2) * 2 * pairs * width


def _seen(config: str, length: int, keys: int) -> int:
    """Count the pairs of a query and a key that it sees."""
    if "CAUSAL" not in (mask[1] if (mask := re.search(r'"mask_type":\s*"(\w+)"', config)) else ""):
        return length * keys
    window = re.search(r'"sliding_window_length":\s*"?(\d+)', config)
    most = int(window[1]) if window and int(window[1]) else keys
    return sum(min(query + 1 + max(0, keys - length), most) for query in range(length))


def _listed(config: str, name: str) -> list[int]:
    """Read a list of numbers from JSON that is part of the text: `"dimensions":["4","8"]`."""
    found = re.search(rf'"{name}":\s*\[([^\]]*)\]', config)
    return [int(number) for number in re.findall(r"\d+", found[1])] if found else []
