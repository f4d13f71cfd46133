"""The tensors of NeoX's ranks for the oracle's tests: read from golden files, or laid out here.

The reader trusts its files. The layout is written from FORMATS.md and knows none of our rules.
"""
# D hidden, V vocabulary, F mlp, K key-value heads, G query heads for each, N = K G, H head

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from jaxneox.config import Settings, load_yaml
from jaxneox.config.schema import ModelConfig
from tests.reference import neox_torch

Tensors = dict[str, np.ndarray]
Ranks = Callable[[int], list[Tensors]]
Part = Callable[..., np.ndarray]

OLD_NAMES = {"dense_h_to_4h": "linear1", "dense_4h_to_h": "linear2"}


def read_case(folder: Path) -> tuple[ModelConfig, Ranks, dict[str, np.ndarray]]:
    """The configuration, the ranks' tensors and the arrays of one golden case."""
    case = json.loads((folder / "case.json").read_text())
    model = Settings(load_yaml([folder / "neox_config.yml"])).model(
        vocab_size=case["real_vocab_size"]
    )
    with np.load(folder / "golden.npz") as golden:
        return model, files_of(folder / "global_step5", case["mp"]), dict(golden)


def files_of(step: Path, mp: int) -> Ranks:
    """Layer files or, where there are none, Sequential ones."""

    def layer_file(module: int, rank: int) -> dict[str, Any]:
        name = f"layer_{module:02d}-model_{rank:02d}-model_states.pt"
        return torch.load(step / name, weights_only=True)

    def sequential_file(module: int, rank: int) -> dict[str, Any]:
        path = step / f"mp_rank_{rank:02d}_model_states.pt"
        return within(torch.load(path, weights_only=False)["module"], f"sequential.{module}")

    read = layer_file if any(step.glob("layer_*")) else sequential_file

    def tensors(module: int, rank: int) -> Tensors:
        return {
            ".".join(OLD_NAMES.get(word, word) for word in name.split(".")): as_numpy(value)
            for name, value in read(module, rank).items()
        }

    return lambda module: [tensors(module, rank) for rank in range(mp)]


def as_numpy(tensor: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def within(leaves: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(f"{prefix}."): leaf
        for name, leaf in leaves.items()
        if name.startswith(f"{prefix}.")
    }


def ranks_of(cfg: ModelConfig, params: Tensors, mp: int) -> Ranks:
    """Our parameters as `mp` ranks of NeoX hold them; replicas are equal."""

    def tensors(module: int, rank: int) -> Tensors:
        def part(x: np.ndarray, axis: int = 0) -> np.ndarray:
            return np.split(x, mp, axis=axis)[rank]

        if module == 0:
            table = {"word_embeddings.weight": part(params["embed.tokens"])}
            if cfg.positions.kind == "learned":
                table["position_embeddings.weight"] = params["embed.positions"]
            return table
        if module == cfg.num_layers + 3:
            return norm(cfg, "norm", within(params, "final_norm"))
        if module == cfg.num_layers + 4:
            return {"final_linear.weight": part(params["unembed.weight"], axis=1).T}
        layer = {name: leaf[module - 2] for name, leaf in within(params, "layers").items()}
        # Of a row-parallel bias: a parallel residual adds every rank's, a sequential one its own.
        copies = mp if cfg.parallel_residual else 1
        return {
            **norm(cfg, "input_layernorm", within(layer, "norm1")),
            **norm(cfg, "post_attention_layernorm", within(layer, "norm2")),
            **attention(cfg, within(layer, "attention"), part, copies),
            **positions(cfg, params, part),
            **mlp(within(layer, "mlp"), part, copies),
        }

    return lambda module: [tensors(module, rank) for rank in range(mp)]


def norm(cfg: ModelConfig, name: str, leaves: Tensors) -> Tensors:
    scale = "weight" if cfg.norm.kind == "layernorm" else "scale"
    return {f"{name}.{scale if leaf == 'scale' else leaf}": x for leaf, x in leaves.items()}


def attention(cfg: ModelConfig, layer: Tensors, part: Part, copies: int) -> Tensors:
    G, H = cfg.attention.group, cfg.attention.head_dim

    def query_key_value(x_KRHD: np.ndarray) -> np.ndarray:
        """[K, G + 2, H, …] -> the rank's rows: per head [q|k|v], or per rank with GQA."""
        blocks = [x_KRHD] if G == 1 else np.split(x_KRHD, [G, G + 1], axis=1)
        return np.concatenate([x.reshape(-1, *x_KRHD.shape[3:]) for x in blocks])

    D = layer["out"].shape[-1]
    tensors = {
        "query_key_value.weight": query_key_value(part(np.moveaxis(layer["qkv"], 0, -1))),
        "dense.weight": part(layer["out"]).reshape(-1, D).T,
    }
    if cfg.attention.bias:
        tensors["query_key_value.bias"] = query_key_value(part(layer["qkv_bias"]))
        tensors["dense.bias"] = layer["out_bias"] / np.float32(copies)
    qk_norm = {
        name: x if name == "g" else part(x).reshape(-1, H)
        for name, x in within(layer, "qk_norm").items()
    }
    tensors |= norm(cfg, "qk_layernorm", qk_norm)
    return {f"attention.{name}": x for name, x in tensors.items()}


def positions(cfg: ModelConfig, params: Tensors, part: Part) -> Tensors:
    """What every layer holds of them."""
    if cfg.positions.kind == "alibi":
        slopes = neox_torch.alibi_slopes(cfg.attention.num_heads)
        return {"attention.alibi_embed.slopes": part(np.array(slopes, np.float32))}
    if cfg.positions.kind == "rpe":
        table = params["embed.rpe"]
        return {"attention.rpe.weight": part(table, axis=1).reshape(len(table), -1)}
    return {}


def mlp(layer: Tensors, part: Part, copies: int) -> Tensors:
    """A gated linear1 is the rank's rows to multiply, then those of its gate."""
    branches = [name for name in ("up", "gate") if name in layer]
    tensors = {
        "mlp.linear1.weight": np.concatenate([part(layer[name], axis=1).T for name in branches]),
        "mlp.linear2.weight": part(layer["down"]).T,
    }
    if "up_bias" in layer:
        biases = [part(layer[f"{name}_bias"]) for name in branches]
        tensors["mlp.linear1.bias"] = np.concatenate(biases)
        tensors["mlp.linear2.bias"] = layer["down_bias"] / np.float32(copies)
    return tensors
