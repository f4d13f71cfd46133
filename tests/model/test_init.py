"""First values against those of NeoX's own model, and the same on every mesh."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config import Settings
from jaxneox.config.schema import AttentionConfig, InitConfig, MlpConfig, ModelConfig
from jaxneox.model import Model
from jaxneox.model.param import initializer
from jaxneox.optim.optimizer import decays
from jaxneox.parallel.mesh import make_mesh
from jaxneox.parallel.rules import rules_for
from jaxneox.train.step.state import on_mesh, param_specs
from tests.model.adapter import HASTE, ONE_DEVICE

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=16,
    vocab_size=32,
    seq_length=8,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=4),
    mlp=MlpConfig(size=24),
)
# NeoX's names of a layer's parts, and the tables around the layers
PARTS = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    "attention.query_key_value": "attention.qkv",
    "attention.dense": "attention.out",
    "mlp.linear1": "mlp.up",
    "mlp.linear2": "mlp.down",
}
TABLES = {
    "word_embeddings.weight": "embed.tokens",
    "position_embeddings.weight": "embed.positions",
    "final_linear.weight": "unembed.weight",
}


def close(found: float, expected: float, numbers: int) -> bool:
    """Two samples of a standard deviation: each is off by 1 / sqrt(2 n), of which six bear all."""
    return abs(found - expected) <= 6 * expected / math.sqrt(numbers)


def our_name(neox: str) -> tuple[str, int | None]:
    """The parameter, and its layer if it lies in one."""
    if neox.endswith(tuple(TABLES)):
        return next(ours for end, ours in TABLES.items() if neox.endswith(end)), None
    number, _, rest = neox.partition(".")
    part, _, leaf = rest.rpartition(".")
    if part in ("norm", *(p for p in PARTS if "norm" in p)):
        leaf = "bias" if leaf == "bias" else "scale"
        return f"final_norm.{leaf}" if part == "norm" else f"layers.{PARTS[part]}.{leaf}", (
            None if part == "norm" else int(number) - 2
        )
    return f"layers.{PARTS[part]}" + ("_bias" if leaf == "bias" else ""), int(number) - 2


def test_every_methods_spread(shared: pathlib.Path) -> None:
    golden = json.loads((shared / "golden/data/init/init_std_measured.json").read_text())
    args, tested = golden["args"], set()
    init = InitConfig(std=args["init_method_std"])
    cfg = dataclasses.replace(
        MODEL, num_layers=args["num_layers"], hidden_size=args["hidden_size"], init=init
    )
    for row in golden["rows"]:
        if "error" in row:  # NeoX's `orthogonal` has raised an error since mup came
            continue
        values = np.asarray(initializer(row["name"], cfg)(jax.random.key(0), (2048, 512), 1))
        assert close(values.std(), row["measured_std"], values.size), row["name"]
        assert abs(values.mean()) <= 6 * row["measured_std"] / math.sqrt(values.size)
        if row["name"] == "xavier_uniform":  # the one that is not normal
            assert np.abs(values).max() == pytest.approx(row["max_abs"], rel=1e-3)
        else:
            assert np.abs(values).max() > 4 * row["measured_std"]
        tested.add(row["name"])
    assert len(tested) == 8


@pytest.mark.parametrize("case", ["pythia", "tied", "llama", "alibi", "neox_default_inits", "wd0"])
def test_a_real_models_parameters_spreads_and_groups(shared: pathlib.Path, case: str) -> None:
    golden = json.loads((shared / f"golden/data/init/neox_groups_{case}.json").read_text())
    cfg = Settings(golden["config"]).resolve(dp=1, vocab_size=50257)
    # fewer words, drawn alike, make it quick
    model = Model(dataclasses.replace(cfg.model, vocab_size=512), ONE_DEVICE)
    init = jax.jit(model.init, compiler_options=HASTE)
    params = jax.device_get(init(jax.random.key(0)))
    seen = set()
    for row in golden["params"]:
        name, layer = our_name(row["name"])
        values = params[name] if layer is None else params[name][layer]
        seen.add(name)
        if row["std"] == 0:
            assert np.all(values == row["mean"]), row["name"]
        else:
            assert close(values.std(), row["std"], values.size), row["name"]
        if cfg.optimizer.weight_decay:
            group = "weight_decay_params" if decays(name) else "no_weight_decay_params"
            assert row["group"] == [group], row["name"]
    gates = {name for name in params if name.startswith("layers.mlp.gate")}  # of linear1
    assert seen | gates == params.keys()


@pytest.mark.parametrize(("rows", "columns"), [(24, 10), (10, 24), (7, 7)])
def test_orthogonal(rows: int, columns: int) -> None:
    for method, square in (("orthogonal", 2.0), ("scaled_orthogonal", 2 / MODEL.num_layers)):
        shape = (rows // 2, 2, columns) if rows % 2 == 0 else (rows, columns)
        w = initializer(method, MODEL)(jax.random.key(0), shape, len(shape) - 1)  # type: ignore
        w = np.asarray(w, np.float64).reshape(rows, columns)
        inner = w @ w.T if rows <= columns else w.T @ w
        # float32's Householder reflections
        np.testing.assert_allclose(inner, square * np.eye(min(rows, columns)), atol=3e-6)


def test_orthogonal_needs_no_more_than_its_matrix() -> None:
    """A table of 50304 words must not make a square of them."""
    init = initializer("orthogonal", MODEL)
    compiled = jax.jit(lambda key: init(key, (4096, 8), 1)).lower(jax.random.key(0)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 4096 * 8 * 4


@pytest.mark.slow
def test_the_same_numbers_on_every_mesh() -> None:
    init = InitConfig("small_init", "scaled_orthogonal")
    cfg = dataclasses.replace(MODEL, init=init, tied_embedding=False, logit_bias=True)

    def start(dp: int, tp: int, zero: int) -> dict[str, np.ndarray]:
        rules, mesh = rules_for({"dp": dp, "tp": tp}, zero, False), make_mesh({"dp": dp, "tp": tp})
        model = Model(cfg, rules)
        shardings = on_mesh(mesh, param_specs(model, rules).params)
        with jax.set_mesh(mesh):
            init = jax.jit(lambda: model.init(jax.random.key(7)), out_shardings=shardings)
            return jax.device_get(init())

    expected, found = start(1, 1, 0), start(2, 4, 3)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not expected["unembed.bias"].any()
    # every matrix, and every layer of it, has numbers of its own
    firsts = [v.ravel()[0] for name, v in expected.items() if decays(name)]
    firsts += [v[1].ravel()[0] for n, v in expected.items() if decays(n) and n.startswith("layers")]
    assert len(set(map(float, firsts))) == len(firsts) == 11
    assert all(v.dtype == jnp.float32 for v in expected.values())
