"""The logits and the loss that GPT-NeoX itself computed, from the checkpoints that it saved.

The cases of one tensor-parallel rank need no merging; what merging does is the converter's affair.
"""
# L layers, D hidden, N heads, H head, F mlp

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from jaxneox.config import Settings, load_yaml  # noqa: E402
from jaxneox.config.schema import ModelConfig  # noqa: E402
from tests.model.adapter import jax_logits, jax_loss  # noqa: E402
from tests.reference import neox_torch  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402
from tests.reference.parameters import parameter_shapes  # noqa: E402

Params = dict[str, np.ndarray]
MATRICES = ("mlp.up", "mlp.down", "attention.qkv", "attention.out")

CASES = ("pythia_mp1", "tied_mp1_pp2", "nobiasmlp_gptj_mp1")
NAMES = {
    "layers.norm1.scale": "input_layernorm.weight",
    "layers.norm1.bias": "input_layernorm.bias",
    "layers.norm2.scale": "post_attention_layernorm.weight",
    "layers.norm2.bias": "post_attention_layernorm.bias",
    "layers.attention.qkv": "attention.query_key_value.weight",
    "layers.attention.qkv_bias": "attention.query_key_value.bias",
    "layers.attention.out": "attention.dense.weight",
    "layers.attention.out_bias": "attention.dense.bias",
    "layers.mlp.up": "mlp.linear1.weight",
    "layers.mlp.up_bias": "mlp.linear1.bias",
    "layers.mlp.down": "mlp.linear2.weight",
    "layers.mlp.down_bias": "mlp.linear2.bias",
}


def read_checkpoint(folder: Path, cfg: ModelConfig) -> Params:
    """NeoX's layer files: 0 the embedding, 2..L+1 the blocks, L+3 the last norm, L+4 the logits."""

    def file(number: int) -> Params:
        path = folder / f"layer_{number:02d}-model_00-model_states.pt"
        return {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}

    L = cfg.num_layers
    blocks = [file(2 + i) for i in range(L)]
    params = {
        ours: np.stack([block[theirs] for block in blocks])
        for ours, theirs in NAMES.items()
        if theirs in blocks[0]
    }
    params["embed.tokens"] = file(0)["word_embeddings.weight"]
    last = file(L + 3)
    params |= {"final_norm.scale": last["norm.weight"], "final_norm.bias": last["norm.bias"]}
    if not cfg.tied_embedding:
        params["unembed.weight"] = file(L + 4)["final_linear.weight"].T
    return params | reshaped(params, cfg)


def reshaped(params: Params, cfg: ModelConfig) -> Params:
    """The matrices [out, in] as NeoX lays them out -> [in, out] with the heads' axes apart."""
    L, D, N, H = cfg.num_layers, cfg.hidden_size, cfg.attention.num_heads, cfg.attention.head_dim
    up, down, qkv, out = (params[f"layers.{x}"].swapaxes(1, 2) for x in MATRICES)
    matrices = {
        "layers.attention.qkv": qkv.reshape(L, D, N, 3, H),
        "layers.attention.qkv_bias": params["layers.attention.qkv_bias"].reshape(L, N, 3, H),
        "layers.attention.out": out.reshape(L, N, 1, H, D),
        "layers.mlp.up": up,
        "layers.mlp.down": down,
    }
    if cfg.mlp.gated:  # the columns that are multiplied come first, those of the gate second
        matrices["layers.mlp.up"], matrices["layers.mlp.gate"] = np.split(up, 2, axis=2)
    return matrices


def load_case(shared: Path, name: str) -> tuple[ModelConfig, Params, dict[str, np.ndarray]]:
    folder = shared / "golden" / "neox" / name
    case = json.loads((folder / "case.json").read_text())
    # A parallel residual without MLP biases makes NeoX drop what attention puts out.
    ours = {"attention_dropped": name == "nobiasmlp_gptj_mp1"}
    keys = load_yaml([folder / "neox_config.yml"]) | ours
    cfg = Settings(keys).model(vocab_size=case["real_vocab_size"])
    params = read_checkpoint(folder / "global_step5", cfg)
    assert {k: v.shape for k, v in params.items()} == parameter_shapes(cfg)
    with np.load(folder / "golden.npz") as golden:
        return cfg, params, {key: golden[key] for key in ("tokens", "labels", "logits", "loss")}


@pytest.mark.parametrize("engine", ["reference", "jax"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_loss_equal_those_of_neox(shared: Path, name: str, engine: str) -> None:
    cfg, params, golden = load_case(shared, name)
    batch = golden["tokens"], golden["labels"]
    if engine == "reference":
        logits = neox_torch.logits(params, cfg, golden["tokens"])
        loss, _ = neox_torch.loss_and_grads(params, cfg, *batch)
    else:
        logits = jax_logits(cfg, params, golden["tokens"])
        loss = jax_loss(cfg, params, *batch)
    # Two float32 forward passes of four layers: a float64 one is 2e-7 to 4e-7 from NeoX's.
    assert relative_l2(logits, golden["logits"]) <= 1e-6
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-6)
