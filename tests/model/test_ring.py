"""Attention around a ring, forward and its written-out backward pass, against plain attention."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.kernels.einsum import attend, visible
from jaxneox.model.ring import ring_attend
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.parallel.meshes import HASTE
from tests.reference.compare import relative_l2

BATCH, KEYS, GROUP, HEAD = 2, 2, 2, 4


class Case(NamedTuple):
    cp: int
    length: int
    window: int | None = None
    slopes: bool = False
    own_keys: bool = False  # one for each query head
    scale: float = 1.0  # of queries and keys: how peaked attention is
    dtype: str = "float32"
    documents: bool = False  # several in a row
    times: float | None = None  # of the scores, muP's

    @property
    def cfg(self) -> AttentionConfig:
        heads = {"num_heads": KEYS * GROUP, "kv_heads": KEYS, "head_dim": HEAD}
        return AttentionConfig(**heads, window=self.window, softmax_fp32=True, scale=self.times)

    def arrays(self) -> list[np.ndarray]:
        """Queries, keys, values, and the gradient of the output."""
        random = np.random.default_rng(0)
        queries = (BATCH, self.length, KEYS, GROUP, HEAD)
        keys = queries if self.own_keys else (BATCH, self.length, KEYS, HEAD)
        shapes = (queries, keys, (BATCH, self.length, KEYS, HEAD), queries)
        q, k, v, d = (random.normal(size=shape) for shape in shapes)
        rounded = (q * self.scale, k * self.scale, v, d)
        return [np.asarray(jnp.asarray(x, self.dtype), np.float32) for x in rounded]

    def ids(self) -> np.ndarray | None:
        """Numbers of documents that end anywhere, another place in each row."""
        ends = np.random.default_rng(1).random((BATCH, self.length)) < 0.3
        return np.cumsum(ends, axis=1, dtype=np.int32) if self.documents else None

    def alibi(self) -> np.ndarray | None:
        return np.float32([[0.5, 0.25], [0.1, 2.0]]) if self.slopes else None


def plain(case: Case, dtype: Any) -> list[np.ndarray]:
    """The output and the gradients of queries, keys and values."""
    positions, slopes = jnp.arange(case.length), case.alibi()
    bias = None
    if slopes is not None:
        distance = (positions[:, None] - positions[None]).astype(jnp.float32)
        bias = -(slopes[None, :, :, None, None] * distance[None, None, None])

    mask, ids = visible(positions, positions, case.window), case.ids()
    if ids is not None:
        mask &= jnp.asarray(ids[:, :, None] == ids[:, None, :])

    def run(q, k, v):
        return attend(q, k, v, mask, bias, None, case.cfg)

    q, k, v, d = (jnp.asarray(x, dtype) for x in case.arrays())
    out, pull = jax.vjp(run, q, k, v)
    return [np.asarray(x, np.float64) for x in (out, *pull(d))]


def ring(case: Case) -> list[np.ndarray]:
    sizes = whole({"cp": case.cp})
    mesh, rules = make_mesh(sizes), rules_for(sizes, 0, False, ring=True)
    order, slopes, ids = rules.order(case.length), case.alibi(), case.ids()

    def run(q, k, v, d):
        given = None if slopes is None else jnp.asarray(slopes)
        documents = None
        if ids is not None:
            spec = rules.activation("batch", "length")
            documents = jax.reshard(jnp.asarray(ids[:, order]), spec)
        attention = lambda q, k, v: ring_attend(q, k, v, given, documents, case.cfg, rules)  # noqa: E731
        out, pull = jax.vjp(attention, q, k, v)
        return out, *pull(d)

    with jax.set_mesh(mesh):
        laid = [
            jax.device_put(
                jnp.asarray(x[:, order], case.dtype),
                NamedSharding(
                    mesh, rules.activation("batch", "length", "kv_heads", *(None,) * (x.ndim - 3))
                ),
            )
            for x in case.arrays()
        ]
        results = jax.jit(run, compiler_options=HASTE)(*laid)
        assert all(x.dtype == case.dtype for x in results)
        return [np.asarray(x, np.float64)[:, np.argsort(order)] for x in results]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 12),
        Case(4, 8, window=2),
        Case(4, 16, slopes=True, own_keys=True),
        Case(2, 8, window=0, slopes=True),
        Case(2, 12, documents=True),
        Case(2, 12, times=0.7),
        Case(4, 16, slopes=True, own_keys=True, window=5, documents=True),
    ],
    ids=str,
)
def test_the_ring_is_attention(case: Case) -> None:
    for found, expected in zip(ring(case), plain(case, jnp.float32), strict=True):
        assert relative_l2(found, expected) <= 1e-6  # float32 sums in another order


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_half_precision_loses_no_more_than_plain_attention_in_it(scale: float) -> None:
    """Also where attention is peaked, and gradients are small differences."""
    case = Case(4, 64, scale=scale, dtype="bfloat16")
    expected, same = plain(case, jnp.float32), plain(case, jnp.bfloat16)
    for found, other, right in zip(ring(case), same, expected, strict=True):
        assert relative_l2(found, right) <= 1.5 * relative_l2(other, right)
