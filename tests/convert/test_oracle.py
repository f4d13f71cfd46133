"""The oracle against what GPT-NeoX itself computed, and against the torch reference in float64.

The goldens are float32 runs of real checkpoints; they say that the oracle means what NeoX means.
What they do not hold (rpe, qk_norm, scalenorm, …) is laid out here as NeoX's ranks would store it
and compared with the torch reference, as is our own layout.
"""
# R model-parallel ranks, D hidden

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from convert.neox.grid import ACTIVATIONS, NORMS  # noqa: E402
from convert.newer_features import newer_features  # noqa: E402
from convert.oracle import JaxneoxForward, NeoxForward, maths, run  # noqa: E402
from convert.oracle.jaxneox import Leaf  # noqa: E402
from jaxneox.config.schema import ModelConfig  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from tests.convert.neox_ranks import Tensors, ranks_of, read_case  # noqa: E402
from tests.model.variants import VARIANTS, configure  # noqa: E402
from tests.reference import neox_torch  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402
from tests.reference.parameters import random_params  # noqa: E402

FLOAT32_CASES = (
    *("pythia_mp1", "pythia_mp2", "pythia_mp4", "pythia_mp2_pp2", "pythia_mp2_pp0"),
    *("pythia_mp2_drift", "seqres_mp2", "tied_mp2", "tied_mp1_pp2", "gptjtied_mp2"),
    *("llama_mp2", "geglu_mp2", "learned_mp2", "alibi_mp2", "zero1_dp2_mp2"),
    *("legacy_v2_mp2", "legacy_v2_mp2_pp2", "nobiasmlp_gptj_mp1"),
)

# The two matrices of a block that write to the stream, and their biases.
WRITERS = ("attention.dense.weight", "mlp.linear2.weight")
ROW_BIASES = ("attention.dense.bias", "mlp.linear2.bias")

# Two float64 programs, their sums in another order: measured 3e-16 to 1e-15.
FLOAT64 = 1e-13


def is_neox(cfg: ModelConfig) -> bool:
    """Whether NeoX itself has such a model, one that it can run."""
    a = cfg.attention
    ours_alone = cfg.logit_bias or cfg.attention_dropped or a.bias != a.biased_output
    ours_alone |= cfg.mamba is not None  # these of NeoX's sizes: test_mamba
    ours_alone |= any(newer_features(cfg).values())
    ours_alone |= cfg.norm.kind not in NORMS or cfg.mlp.activation not in ACTIVATIONS
    return not ours_alone and (cfg.mlp.bias or cfg.mlp.gated)


def can_be_split(cfg: ModelConfig, mp: int) -> bool:
    """Whether `mp` ranks of NeoX compute the function that one does."""
    joint = cfg.attention.qk_norm and "layernorm" in cfg.norm.kind
    return mp == 1 or (cfg.attention.kv_heads % mp == 0 and not joint)


RUNS = [(v, mp) for v in VARIANTS for mp in (1, 2)]
RUNS = [(v, mp) for v, mp in RUNS if is_neox(configure(v)) and can_be_split(configure(v), mp)]


@pytest.mark.parametrize("name", FLOAT32_CASES)
def test_logits_of_float32_runs(shared: Path, name: str) -> None:
    model, ranks, golden = read_case(shared / "golden" / "neox" / name)
    logits = run(NeoxForward(model, ranks), golden["tokens"])
    # NeoX's own float32 rounding: 2.6e-7 to 4.1e-7, and at most 1.4e-6 in one logit.
    assert relative_l2(logits, golden["logits"]) <= 1e-6
    assert np.abs(logits - golden["logits"]).max() <= 5e-6


def test_logits_of_a_bfloat16_run(shared: Path) -> None:
    model, ranks, golden = read_case(shared / "golden" / "neox" / "bf16_mp2")
    logits = run(NeoxForward(model, ranks), golden["tokens"])
    # One rounding to bfloat16 is 2 ** -9 / sqrt(3) = 1.1e-3 on average, and some thirty activations
    # in a row, over four layers, are rounded: sqrt(30) * 1.1e-3 = 6e-3. Measured 7.6e-3.
    assert relative_l2(logits, golden["logits"]) <= 8e-3


def test_every_golden_case_is_compared(shared: Path) -> None:
    cases = {path.parent.name for path in (shared / "golden" / "neox").glob("*/case.json")}
    assert cases == {*FLOAT32_CASES, "bf16_mp2"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_layout_in_float64(variant: str) -> None:
    cfg, params, tokens = random_case(variant)
    forward = JaxneoxForward(cfg, reader(cfg, params), np.float64)
    assert relative_l2(run(forward, tokens), neox_torch.logits(params, cfg, tokens)) <= FLOAT64


@pytest.mark.parametrize(("variant", "mp"), RUNS)
def test_the_layout_of_ranks_in_float64(variant: str, mp: int) -> None:
    cfg, params, tokens = random_case(variant)
    logits = run(NeoxForward(cfg, ranks_of(cfg, params, mp), np.float64), tokens)
    # NeoX adds what attention puts out only together with the MLP's bias.
    meant = replace(cfg, attention_dropped=cfg.parallel_residual and not cfg.mlp.bias)
    assert relative_l2(logits, neox_torch.logits(params, meant, tokens)) <= FLOAT64


def test_normalised_queries_see_the_heads_of_their_rank_alone() -> None:
    """A layer norm over [heads, head dim] is another function at another mp."""
    cfg, params, tokens = random_case("qk_norm")
    one, two = (run(NeoxForward(cfg, ranks_of(cfg, params, mp)), tokens) for mp in (1, 2))
    assert relative_l2(two, one) > 1e-2


def test_what_neox_cannot_run_is_refused() -> None:
    cfg, params, _ = random_case("alibi unbiased_norm no_attention_bias no_mlp_bias")
    with pytest.raises(UserError, match="use_bias_in_mlp is false with an activation that is not"):
        NeoxForward(cfg, ranks_of(cfg, params, mp=1))


@pytest.mark.parametrize("variant", ["", "parallel"])
def test_drifted_biases_are_summed_or_each_stream_gets_its_own(variant: str) -> None:
    """Where its matrices are zeros, a layer adds the biases of its two row-parallel matrices."""
    cfg, params, tokens = random_case(variant)
    ranks = ranks_of(cfg, params, mp=2)
    rng = np.random.default_rng(5)
    block = [muted(tensors) for tensors in ranks(2)]
    for tensors in block:
        tensors |= {name: rng.standard_normal(cfg.hidden_size) for name in ROW_BIASES}
    own_RD = np.stack([sum(tensors[name] for name in ROW_BIASES) for tensors in block])
    forward = NeoxForward(cfg, lambda module: block if module == 2 else ranks(module))
    streams = forward.embed(tokens)
    added_RD = (forward.layer(0, streams) - streams)[:, 1, 7]
    expected_RD = own_RD.sum(0, keepdims=True).repeat(2, 0) if cfg.parallel_residual else own_RD
    np.testing.assert_allclose(added_RD, expected_RD, atol=1e-14)  # float64 at a size of 1


@pytest.mark.parametrize("variant", ["", "parallel"])
@pytest.mark.parametrize("branch", WRITERS)
@pytest.mark.parametrize("active", [0, 1])
def test_every_rank_reads_its_own_stream(variant: str, branch: str, active: int) -> None:
    """Where one branch of one rank alone writes, noise in rank 1's stream reaches rank 0's stream
    if that rank is rank 1, and stays where it is if not."""
    cfg, params, tokens = random_case(variant)
    ranks = ranks_of(cfg, params, mp=2)
    block = [muted(tensors) for tensors in ranks(2)]
    block[active][branch] = ranks(2)[active][branch]
    forward = NeoxForward(cfg, lambda module: block if module == 2 else ranks(module))
    streams = forward.embed(tokens)
    noise = np.zeros_like(streams)
    noise[1] = np.random.default_rng(6).standard_normal(noise[1].shape)
    moved = forward.layer(0, streams + noise) - forward.layer(0, streams)
    assert np.allclose(moved[0], 0, atol=1e-13) == (active == 0)
    np.testing.assert_allclose(moved[1] - noise[1], moved[0], atol=1e-13)  # one sum for both


def test_learned_positions_are_each_rank_s_own() -> None:
    cfg, params, tokens = random_case("learned_offset relu gqa")
    first, second = ranks_of(cfg, params, mp=2)(0)
    second["position_embeddings.weight"] = second["position_embeddings.weight"] + np.float32(1)
    streams = NeoxForward(cfg, lambda module: [first, second]).embed(tokens)
    np.testing.assert_allclose(streams[1] - streams[0], 1, rtol=1e-6)  # the float32 table's


def test_a_module_is_read_once_when_it_is_computed() -> None:
    cfg, params, tokens = random_case("rpe six_heads parallel reglu untied")
    ranks, read = ranks_of(cfg, params, mp=1), []

    def reading(module: int) -> list[Tensors]:
        read.append(module)
        return ranks(module)

    run(NeoxForward(cfg, reading), tokens)
    assert read == [0, 2, 3, 5, 6]


def test_a_matrix_may_be_cast_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, params, tokens = random_case("parallel untied gelu_tanh")
    forward = NeoxForward(cfg, ranks_of(cfg, params, mp=2))
    whole = run(forward, tokens)
    monkeypatch.setattr(maths, "BLOCK", 7)
    assert relative_l2(run(forward, tokens), whole) <= FLOAT64


def test_a_missing_tensor_is_named() -> None:
    cfg, params, tokens = random_case("")
    ranks = ranks_of(cfg, params, mp=2)

    def without(module: int) -> list[Tensors]:
        first, second = ranks(module)
        return [first, {k: v for k, v in second.items() if k != "mlp.linear2.bias"}]

    with pytest.raises(UserError, match=r"module 2, rank 1: no mlp\.linear2\.bias among"):
        run(NeoxForward(cfg, without), tokens)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("width", [16, 24, 32])
def test_angles_are_rounded_as_torch_rounds_them(width: int, dtype: str) -> None:
    """NeoX's own steps, at the 20B's length; torch's power may be one bit off on a machine."""
    kind = getattr(torch, dtype)
    frequencies = 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))
    expected = torch.outer(torch.arange(2048).to(kind), frequencies.to(kind)).double().numpy()
    found = maths.angles(2048, width, 10000.0, getattr(ml_dtypes, dtype, dtype))
    np.testing.assert_allclose(found, expected, rtol=2.0**-22)


def random_case(variant: str) -> tuple[ModelConfig, Tensors, np.ndarray]:
    cfg = configure(variant)
    tokens = np.random.default_rng(8).integers(0, cfg.vocab_size, (2, cfg.seq_length))
    return cfg, random_params(cfg, seed=7), tokens


def reader(cfg: ModelConfig, params: Tensors) -> Leaf:
    """Reads a parameter or one layer of it; it is stacked over the layers that have it."""

    def read(name: str, layer: int | None) -> np.ndarray:
        if layer is None:
            return params[name]
        having = "dense" if name.split(".")[1] in ("attention", "mlp", "norm2") else "mamba"
        alone = name.split(".")[1] != "norm1"
        return params[name][sum(not alone or k == having for k in cfg.kinds[:layer])]

    return read


def muted(tensors: Tensors) -> Tensors:
    return tensors | {name: np.zeros_like(tensors[name]) for name in WRITERS}
