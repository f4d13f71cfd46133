"""The selective scan and its gradients, first values, and what stays float32."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig
from jaxneox.model import Model
from jaxneox.model.mamba import selective_scan as scan
from jaxneox.model.mamba.selective_scan import ScanInputs
from jaxneox.model.parameters import Declaration
from jaxneox.model.product import as_derived
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.reference.compare import relative_l2

CFG = ModelConfig(
    num_layers=2,
    hidden_size=64,
    vocab_size=64,
    seq_length=16,
    attention=AttentionConfig(2, 2, 32),
    mlp=MlpConfig(48),
    pattern=("mamba",),
    mamba=MambaConfig(channels=128, step_rank=4),
)
MESH = make_mesh(whole({}))


def inputs(length: int, documents: bool = False) -> ScanInputs:
    B, G, J, N = 2, 2, 3, 4
    rng = np.random.default_rng(0)
    normal = rng.standard_normal
    return ScanInputs(
        *(normal((B, length, G, J)), np.exp(normal((B, length, G, J)) - 1)),
        *(normal((B, length, G, N)), normal((B, length, G, N))),
        -np.exp(normal((N, G, J))),
        (rng.random((B, length)) > 0.2).astype(float) if documents else None,
    )


def one_after_another(x: ScanInputs) -> np.ndarray:
    """The formula in float64, a token at a time."""
    y, h = np.zeros_like(x.u_BTGJ), np.zeros((len(x.u_BTGJ), *x.a_NGJ.shape))
    for t in range(y.shape[1]):
        delta, u = x.delta_BTGJ[:, t, None], x.u_BTGJ[:, t, None]
        kept = 1.0 if x.kept_BT is None else x.kept_BT[:, t, None, None, None]
        b, c = (np.swapaxes(z[:, t], 1, 2)[..., None] for z in (x.b_BTGN, x.c_BTGN))
        h = kept * np.exp(delta * x.a_NGJ) * h + delta * u * b
        y[:, t] = (h * c).sum(axis=1)
    return y


def results(x: ScanInputs, derived: bool = False) -> tuple[np.ndarray, ScanInputs]:
    """The scan of float32 inputs, and the gradients of a sum in which all of it counts."""
    small = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), x)

    def total(x: ScanInputs) -> tuple[jax.Array, jax.Array]:
        y = scan.selective_scan(x)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

    with jax.set_mesh(MESH):
        run = jax.jit(jax.grad(total, has_aux=True))
        if derived:
            with as_derived():
                grads, y = run(small)
        else:
            grads, y = run(small)
    return np.asarray(y), grads


@pytest.fixture(params=["cpu", "gpu"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scan as it is made on a CPU, and as on an accelerator, with short chunks."""
    monkeypatch.setattr(scan, "platform", lambda: request.param)
    monkeypatch.setattr(scan, "SEQUENTIAL_CHUNK", 4)
    monkeypatch.setattr(scan, "PARALLEL_CHUNK", 4)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("length", [1, 8, 11])
def test_the_scan_is_the_formula(platform: Any, length: int, documents: bool) -> None:
    x = inputs(length, documents)
    y, grads = results(x)
    # up to 11 steps, each rounded by 6e-8, in sums that partly cancel
    assert relative_l2(y, one_after_another(x)) <= 1e-6
    _, derived = results(x, derived=True)
    for name, found, expected in zip(x._fields[:5], grads, derived, strict=False):
        assert relative_l2(found, expected) <= 2e-6, name


def test_the_state_after_prompts_of_any_length(platform: Any) -> None:
    x = inputs(7)
    with jax.set_mesh(MESH):
        small = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), x)
        y, state = scan.scan_with_state(small)
        ended = small._replace(delta_BTGJ=small.delta_BTGJ.at[:, 5:].set(0.0))
        _, before = scan.scan_with_state(ended)
        for t in (5, 6):
            four = (z[:, t : t + 1] for z in small[:4])
            step, before = scan.scan_step(ScanInputs(*four, small.a_NGJ), before)
            np.testing.assert_allclose(step[:, 0], y[:, t], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(before, state, rtol=1e-5, atol=1e-6)


def test_the_backward_pass_holds_one_chunks_states() -> None:
    """All of them would be 16 numbers for every channel and token."""
    B, T, J, N = 1, 512, 64, 16
    shapes = [(B, T, 1, J), (B, T, 1, J), (B, T, 1, N), (B, T, 1, N), (N, 1, J)]
    x = ScanInputs(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    with jax.set_mesh(MESH):
        run = jax.jit(jax.grad(lambda x: jnp.sum(scan.selective_scan(x) ** 2)))
        memory = run.lower(x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < B * T * J * N * 4 / 2


def test_first_values_are_those_of_neox(shared: Any) -> None:
    """Values that are not random, and the limits of those that are."""
    folder = shared / "golden/neox_arch/mamba_mp1"
    stats = json.loads((folder / "case.json").read_text())["init_stats"]["pp0_mp0"]
    first = {n: np.asarray(w) for n, w in Declaration(CFG).init(jax.random.key(0)).items()}
    with np.load(folder / "golden.npz") as golden:
        expected = golden["init/2.mixer.A_log"]
    np.testing.assert_allclose(first["layers.mamba.a_log"][0, :, 0], expected[0], rtol=1e-6)
    assert (first["layers.mamba.skip"] == 1).all()
    names = {"conv": "conv1d.weight", "conv_bias": "conv1d.bias"}
    names |= {"step": "dt_proj.weight", "step_bias": "dt_proj.bias"}
    for ours, theirs in names.items():
        values = first[f"layers.mamba.{ours}"]
        _, std, low, high = stats[f"2.mixer.{theirs}"]
        # some hundred numbers, as there: their spread is known to a tenth, their ends nearly
        assert values.std() == pytest.approx(std, rel=0.15), ours
        assert low - 0.1 * std <= values.min() and values.max() <= high + 0.1 * std, ours


def test_what_the_scan_reads_stays_float32() -> None:
    declared = Declaration(CFG)
    exact = {"layers.mamba.a_log", "layers.mamba.skip"}
    assert declared.exact == exact
    weights = {name: jnp.zeros(1) for name in declared.shapes if name.startswith("layers.")}
    rounded = declared.rounded(weights, "bfloat16")
    assert {n for n, w in rounded.items() if w.dtype == jnp.float32} == exact


def test_bfloat16_is_its_rounding_away() -> None:
    tokens = np.random.default_rng(1).integers(0, 64, (2, 16))
    logits = {}
    with jax.set_mesh(MESH):
        params = Declaration(CFG).init(jax.random.key(0))
        for compute in ("float32", "bfloat16"):
            model = Model(CFG, rules_for(whole({}), 0, False), compute)
            logits[compute] = jax.jit(model.logits)(params, jnp.asarray(tokens))
    # some twenty roundings to bfloat16, 2 ** -9 each, in two layers
    apart = relative_l2(logits["bfloat16"], logits["float32"])
    assert 2.0**-12 < apart <= 20 * 2.0**-9
