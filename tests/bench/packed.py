"""`python -m tests.bench.packed`: packed documents by cuDNN on this GPU, beside the plain kernel.

First the numbers: outputs and gradients of both in bfloat16 against the formula in float64. Then
seconds and temporaries, forward and backward. It takes two minutes, and ends with status 1 if cuDNN
is more than twice as far from the formula as the plain kernel, or did not run.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.layer_schema import Kernel
from jaxneox.config.schema import AttentionConfig
from jaxneox.model.kernels import Extra, mix
from jaxneox.model.kernels.cudnn import capability, most_documents
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.bench.clock import seconds
from tests.reference.compare import relative_l2

ROUNDS = 10

Run = Callable[..., tuple[jax.Array, ...]]


@dataclass(frozen=True)
class PackedRows:
    """Rows of documents that begin anywhere; those of row i are `documents - i % 3`, 1 at least."""

    batch: int
    length: int
    documents: int
    heads: int = 8
    group: int = 1
    head: int = 64
    window: int | None = None

    @property
    def cfg(self) -> AttentionConfig:
        return AttentionConfig(
            self.heads, self.heads // self.group, self.head, window=self.window, softmax_fp32=True
        )

    @property
    def fits(self) -> bool:
        return self.documents <= most_documents(self.length, self.heads * self.head)

    def arrays(self) -> tuple[list[jax.Array], jax.Array]:
        """Queries, keys, values and the output's gradient in bfloat16; the documents' numbers."""
        random = np.random.default_rng(0)
        keys = (self.batch, self.length, self.heads // self.group, self.head)
        queries = (*keys[:3], self.group, self.head)
        begins = np.zeros((self.batch, self.length), np.int32)
        for i, row in enumerate(begins):
            others = max(self.documents - 1 - i % 3, 0)
            row[1 + random.choice(self.length - 1, others, replace=False)] = 1
        made = [random.normal(size=shape) for shape in (queries, keys, keys, queries)]
        return [jnp.asarray(x, "bfloat16") for x in made], jnp.asarray(np.cumsum(begins, 1))


NUMBERS = [
    PackedRows(3, 256, 2),
    PackedRows(4, 512, 4, head=128),
    PackedRows(4, 1000, 7, group=4),
    PackedRows(4, 1024, 8, window=100),
    PackedRows(4, 512, 4, head=40),
    PackedRows(3, 512, 1),
    PackedRows(4, 512, 40),  # more than there is room for
]

TIMES = [
    PackedRows(8, 2048, 4, heads=16),
    PackedRows(8, 2048, 16, heads=16),
    PackedRows(8, 2048, 200, heads=16),
    PackedRows(4, 8192, 16, heads=32, head=128),
]


def gradients_of(rows: PackedRows, kernel: Kernel) -> Run:
    """Output and gradients of queries, keys and values by a kernel; call it on a mesh."""
    rules = rules_for(whole({"dp": 1}), 0, False)
    cfg = replace(rows.cfg, kernel=kernel)

    def run(q: Any, k: Any, v: Any, d: Any, documents: Any) -> tuple[jax.Array, ...]:
        positions, extra = jnp.arange(rows.length), Extra(documents_BT=documents)
        out, pull = jax.vjp(
            lambda q, k, v: mix(q, k, v, positions, extra, None, cfg, rules), q, k, v
        )
        return out, *pull(jax.reshard(d.astype(out.dtype), jax.typeof(out).sharding.spec))

    return jax.jit(run)


def errors(rows: PackedRows, kernel: Kernel) -> list[float]:
    """Relative L2 of output and gradients in bfloat16, against the formula in float64."""
    arrays, documents = rows.arrays()
    found = gradients_of(rows, kernel)(*arrays, documents)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        exact = [jnp.asarray(np.asarray(x, np.float64)) for x in arrays]
        expected = gradients_of(rows, "einsum")(*exact, documents)
    pairs = zip(found, expected, strict=True)
    return [relative_l2(np.asarray(x, np.float64), np.asarray(y)) for x, y in pairs]


def compare(rows: PackedRows) -> bool:
    """Print both kernels' errors; False if cuDNN's are more than twice the plain kernel's."""
    ours, plain = errors(rows, "cudnn"), errors(rows, "blocked")
    right = all(mine <= 2 * other for mine, other in zip(ours, plain, strict=True))
    print(f"{'right' if right else 'WRONG'}: {rows}")
    for name, mine, other in zip(("output", "d_q", "d_k", "d_v"), ours, plain, strict=True):
        print(f"  {name:6} cudnn {mine:.2e}, blocked {other:.2e}")
    return right


def cost(rows: PackedRows, kernel: Kernel) -> str:
    """Milliseconds of forward and backward pass, the best of some, and the temporaries."""
    arrays, documents = rows.arrays()
    compiled = gradients_of(rows, kernel).lower(*arrays, documents).compile()
    jax.block_until_ready(compiled(*arrays, documents))
    best = min(
        seconds(lambda: jax.block_until_ready(compiled(*arrays, documents))) for _ in range(ROUNDS)
    )
    memory = compiled.memory_analysis()
    temporaries = "unknown" if memory is None else f"{memory.temp_size_in_bytes / 2**20:,.0f} MiB"
    return f"{kernel} {best * 1e3:.2f} ms, temporaries {temporaries}"


def main() -> None:
    if capability() < (9, 0):
        sys.exit("error: this needs a GPU of compute capability 9.0 (Hopper) or later")
    print(jax.devices()[0].device_kind, jax.__version__, flush=True)
    with jax.set_mesh(make_mesh(whole({"dp": 1}))):
        right = [compare(rows) for rows in NUMBERS]
        for rows in TIMES:
            by = "cudnn" if rows.fits else "blocked, inside cudnn"
            print(
                f"{rows}: by {by}", *(cost(rows, each) for each in ("cudnn", "blocked")), sep="\n  "
            )
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
