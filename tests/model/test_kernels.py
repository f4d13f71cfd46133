"""Attention's kernels against the formula in float64: values, gradients, meshes, and the choice."""

import dataclasses
import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.layer_schema import Kernel
from jaxneox.config.schema import AttentionConfig
from jaxneox.errors import UserError
from jaxneox.model import kernels
from jaxneox.model.kernels import Extra, choose, mix
from jaxneox.model.positions import Alibi
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.parallel.meshes import HASTE
from tests.reference.compare import relative_l2

BATCH, KEYS, HEAD = 4, 2, 8
FLOAT32 = 1e-6  # relative L2: rounding of sums of some hundred terms
QUERIES = ("batch", "length", "kv_heads", None, None)


@dataclasses.dataclass(frozen=True)
class Case:
    length: int
    group: int = 1
    window: int | None = None
    alibi: bool = False
    own_keys: bool = False  # one for each query head, as with qk_norm
    head: int = HEAD
    documents: int = 0  # in each row, which end anywhere
    scale: float | None = None  # of the scores, muP's

    @property
    def cfg(self) -> AttentionConfig:
        heads = KEYS * self.group
        return AttentionConfig(
            heads, KEYS, self.head, window=self.window, softmax_fp32=True, scale=self.scale
        )

    @property
    def extra(self) -> Extra:
        alibi = Alibi(self.cfg) if self.alibi else None
        return Extra(alibi, documents_BT=self.ids() if self.documents else None)

    def ids(self) -> jax.Array:
        """The numbers of the documents [B, T]."""
        random = np.random.default_rng(1)
        begins = np.zeros((BATCH, self.length), np.int32)
        for row in begins:
            row[random.choice(self.length - 1, self.documents - 1, replace=False) + 1] = 1
        return jnp.asarray(np.cumsum(begins, axis=1))

    def arrays(self) -> list[np.ndarray]:
        """Queries, keys, values, and the gradient of the output."""
        random = np.random.default_rng(0)
        queries = (BATCH, self.length, KEYS, self.group, self.head)
        plain = (BATCH, self.length, KEYS, self.head)
        shapes = (queries, queries if self.own_keys else plain, plain, queries)
        return [random.normal(size=shape) for shape in shapes]


def run(case: Case, kernel: str, sizes: dict[str, int], dtype: Any) -> list[np.ndarray]:
    """The output and the gradients of queries, keys and values."""
    sizes = whole(sizes)
    mesh, rules = make_mesh(sizes), rules_for(sizes, 0, False)
    cfg = dataclasses.replace(case.cfg, kernel=kernel)

    def each(q, k, v, d):
        keys = [rules.activation("batch", None, "kv_heads", *[None] * (x.ndim - 3)) for x in (k, v)]
        q, d = (jax.reshard(x, rules.activation(*QUERIES)) for x in (q, d))
        k, v = (jax.reshard(x, spec) for x, spec in zip((k, v), keys, strict=True))
        positions, extra = jnp.arange(case.length), case.extra
        if extra.documents_BT is not None:
            laid = jax.reshard(extra.documents_BT, rules.activation("batch", "length"))
            extra = dataclasses.replace(extra, documents_BT=laid)
        out, pull = jax.vjp(
            lambda q, k, v: mix(q, k, v, positions, extra, None, cfg, rules), q, k, v
        )
        return out, *pull(jax.reshard(d, jax.typeof(out).sharding.spec))

    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        arrays = [jnp.asarray(x, dtype) for x in case.arrays()]
        return [np.asarray(x, np.float64) for x in jax.jit(each, compiler_options=HASTE)(*arrays)]


CASES = [
    Case(5),
    Case(200, group=2),
    Case(130, window=7),
    Case(300, window=100, alibi=True),
    Case(256, group=3, alibi=True),
    Case(190, group=2, own_keys=True),
    Case(200, group=2, documents=5),
    Case(130, alibi=True, scale=0.7),
    Case(260, window=30, alibi=True, own_keys=True, documents=40),
]


@pytest.mark.parametrize("scale", [None, 0.7])
def test_the_formula_in_float64(scale: float | None) -> None:
    """Against NumPy: what all kernels are held against rounds to float64 alone."""
    case = Case(24, group=2, window=9, scale=scale)
    q, k, v, _ = case.arrays()
    scores = np.einsum("btkgh,bskh->bkgts", q, k) * (scale or 1 / math.sqrt(HEAD))
    behind = np.subtract.outer(np.arange(24), np.arange(24))
    weights = np.exp(np.where((behind >= 0) & (behind <= 9), scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    with jax.enable_x64(True):
        out, *_ = run(case, "einsum", {"dp": 1}, "float64")
    assert relative_l2(out, np.einsum("bkgts,bskh->btkgh", weights, v)) < 1e-15


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_are_the_formula(case: Case) -> None:
    with jax.enable_x64(True):
        exact = run(case, "einsum", {"dp": 1}, "float64")
    for found, expected in zip(run(case, "blocked", {"dp": 1}, "float32"), exact, strict=True):
        assert relative_l2(found, expected) < FLOAT32


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"dp": 2, "tp": 2}, {"cp": 2, "tp": 2}, {"dp": 2, "cp": 4}], ids=str
)
def test_blocks_on_meshes(sizes: dict[str, int]) -> None:
    case = Case(136, group=2, window=40, alibi=True, documents=4)
    one = run(case, "blocked", {"dp": 1}, "float32")
    for found, expected in zip(run(case, "blocked", sizes, "float32"), one, strict=True):
        assert relative_l2(found, expected) < FLOAT32


def test_half_precision_is_as_near_as_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """To float64, of arguments that are rounded alike. The gradients of scores are rounded before
    their products, as in all fused kernels: one rounding more than the formula's, whose products
    jax makes of float32, so that the error may grow by sqrt(2) for an equal one, and by 2 at most.
    """
    case = Case(256, group=2)
    rounded = [np.asarray(jnp.asarray(x, "bfloat16"), np.float64) for x in case.arrays()]
    monkeypatch.setattr(Case, "arrays", lambda _: rounded)
    with jax.enable_x64(True):
        exact = run(case, "einsum", {"dp": 1}, "float64")
    formula, blocked = (
        run(case, kernel, {"dp": 1}, "bfloat16") for kernel in ("einsum", "blocked")
    )
    for mine, other, expected in zip(blocked, formula, exact, strict=True):
        assert relative_l2(mine, expected) < 2 * relative_l2(other, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(256, group=2, head=128),
        Case(256, window=60, head=128, scale=1 / 128),
        Case(256, group=2, head=128, documents=6),
    ],
    ids=str,
)
def test_the_tpus_kernel_interpreted(case: Case) -> None:
    with jax.enable_x64(True):
        exact = run(case, "einsum", {"dp": 1}, "float64")
    found = run(case, "splash", {"dp": 2, "tp": 2}, "float32")
    for mine, expected in zip(found, exact, strict=True):
        assert relative_l2(mine, expected) < FLOAT32


HALF, FLOAT = jnp.dtype("bfloat16"), jnp.dtype("float32")
PACKED = Extra(documents_BT=jnp.zeros((1, 256), jnp.int32))


def chosen(
    platform: str,
    monkeypatch: pytest.MonkeyPatch,
    dtype=HALF,
    extra=None,
    length=256,
    sizes=None,
    **cfg,
) -> str:
    monkeypatch.setattr(kernels, "platform", lambda: platform)
    attention = AttentionConfig(4, cfg.pop("kv_heads", 4), cfg.pop("head_dim", 64), **cfg)
    rules = rules_for(whole(sizes or {}), 0, False)
    return choose(attention, length, dtype, extra or Extra(), None, rules)


def test_the_choice_by_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    alibi = Extra(Alibi(AttentionConfig(4, 4, 64)))
    assert chosen("cpu", monkeypatch, FLOAT) == chosen("tpu", monkeypatch) == "blocked"
    assert chosen("gpu", monkeypatch) == chosen("gpu", monkeypatch, window=9) == "cudnn"
    assert chosen("gpu", monkeypatch, FLOAT) == "blocked"
    assert chosen("gpu", monkeypatch, extra=alibi) == "blocked"
    assert chosen("gpu", monkeypatch, extra=PACKED) == "blocked"
    assert chosen("tpu", monkeypatch, extra=PACKED, kernel="splash") == "splash"
    assert chosen("gpu", monkeypatch, head_dim=256) == "blocked"
    assert chosen("gpu", monkeypatch, sizes={"dp": 2, "tp": 2}) == "cudnn"
    assert chosen("gpu", monkeypatch, sizes={"pp": 2}) == "blocked"
    assert chosen("gpu", monkeypatch, sizes={"cp": 2}) == "blocked"
    assert chosen("cpu", monkeypatch, extra=Extra(bias=jnp.zeros(1))) == "einsum"
    assert chosen("tpu", monkeypatch, kernel="splash") == "splash"
    assert chosen("gpu", monkeypatch, kernel="einsum") == "einsum"


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_every_kernel_is_to_be_had_on_some_device(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = "gpu" if kernel == "cudnn" else "tpu"
    assert chosen(platform, monkeypatch, kernel=kernel) == kernel


def test_a_kernel_that_lacks_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alibi = Extra(Alibi(AttentionConfig(4, 4, 64)))
    with pytest.raises(UserError, match=r"attention_kernel: cudnn has no alibi.* one of eins"):
        chosen("gpu", monkeypatch, extra=alibi, kernel="cudnn")
    with pytest.raises(UserError, match="cudnn has no float32"):
        chosen("gpu", monkeypatch, FLOAT, kernel="cudnn")
    with pytest.raises(UserError, match="cudnn has no program for a cpu"):
        chosen("cpu", monkeypatch, kernel="cudnn")
    with pytest.raises(UserError, match="splash has no program for a gpu"):
        chosen("gpu", monkeypatch, kernel="splash")
    with pytest.raises(UserError, match="splash has no pipeline"):
        chosen("tpu", monkeypatch, kernel="splash", sizes={"pp": 2})
    with pytest.raises(UserError, match="splash has no keys of their own for the queries"):
        chosen("tpu", monkeypatch, kernel="splash", kv_heads=2, qk_norm=True)
    with pytest.raises(UserError, match="cudnn has no packed documents on GPUs before Hopper"):
        chosen("gpu", monkeypatch, extra=PACKED, kernel="cudnn")
    with pytest.raises(UserError, match=r"splash has no sequences of 200 \(a multiple of 128\)"):
        chosen("tpu", monkeypatch, kernel="splash", length=200)
    with pytest.raises(UserError, match="blocked has no learned biases"):
        chosen("cpu", monkeypatch, extra=Extra(bias=jnp.zeros(1)), kernel="blocked")
