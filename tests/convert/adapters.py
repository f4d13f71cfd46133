"""Random adapters beside random bases: runs of ours, folders of PEFT's, and in transformers."""

import json
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from convert import to_hf
from convert.ours.base import sums_of
from convert.readers.jaxneox import open_jaxneox, parameter_shapes
from convert.writers.jaxneox import JaxneoxWriter
from jaxneox.base_model import fingerprint
from jaxneox.config import Settings, saved_keys
from tests.convert.commands import call
from tests.convert.hf_models import GPT2, GPT_NEOX, LLAMA, MISTRAL, QWEN2, QWEN3, Keys, write_run

FAMILIES: Mapping[str, Keys] = {
    "neox": GPT_NEOX,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
}
PREFIX = "base_model.model."
TOKENS = np.random.default_rng(1).integers(0, 40, (2, 16))


class Bench(NamedTuple):
    """A base as a run and in transformers, and an adapter beside it."""

    base: Path
    hf: Path
    adapter: Path


def write_adapter(folder: Path, base: Path, *, step: int = 3, seed: int = 5, **lora: Any) -> Path:
    """An adapter run beside a base, in which neither A nor B is zero."""
    whole = open_jaxneox(base)
    block = {"base": str(base), "rank": 4, "alpha": 6.0, **lora}
    config = Settings(whole.keys | {"lora": block}).resolve(dp=1, vocab_size=None)
    rng = np.random.default_rng(seed)
    params = {
        name: (rng.standard_normal(shape) * 0.1).astype(np.float32)
        for name, shape in parameter_shapes(config.model).items()
        if "_lora." in name
    }
    writer = JaxneoxWriter(folder, step, {n: (x.shape, x.dtype) for n, x in params.items()})
    for name, x in params.items():
        writer.write(name, None, x)
    record = {"where": str(base), "fingerprint": fingerprint(sums_of(whole))}
    writer.finish(saved_keys(config), {"base": record})
    return folder


def bench(folder: Path, keys: Keys, **lora: Any) -> Bench:
    base, hf = folder / "base", folder / "hf"
    write_run(base, keys)
    call(to_hf, base, hf, "--no-verify")
    return Bench(base, hf, write_adapter(folder / "adapter", base, **lora))


def change_settings(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter_model.safetensors")


def write_peft(
    folder: Path, shapes: Mapping[str, tuple[int, int]], ranks: Mapping[str, int], **settings: Any
) -> Path:
    """A folder of PEFT's; `shapes` are (out, in) of modules, `ranks` are theirs."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    tensors = {}
    for name, rank in ranks.items():
        outputs, inputs = shapes[name]
        a, b = rng.standard_normal((rank, inputs)), rng.standard_normal((outputs, rank))
        tensors[f"{PREFIX}{name}.lora_A.weight"] = (a * 0.1).astype(np.float32)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = (b * 0.1).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | settings))
    return folder


def merged_by_hand(hf: Path, peft: Path, scales: Mapping[str, float] | None = None) -> np.ndarray:
    """The logits of transformers in float64, with s B A added to each weight by PEFT's names."""
    import torch
    from transformers import AutoModelForCausalLM

    settings, tensors = json.loads((peft / "adapter_config.json").read_text()), tensors_of(peft)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).double().eval()
    names = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}
    for name in sorted(names):
        a, b = (
            torch.tensor(tensors[f"{PREFIX}{name}.lora_{x}.weight"].astype(np.float64))
            for x in "AB"
        )
        root = sqrt(len(a)) if settings.get("use_rslora") else len(a)
        scale = (scales or {}).get(name, settings["lora_alpha"] / root)
        weight = model.get_submodule(name).weight
        delta = scale * (b @ a)
        weight.data += delta.T if settings.get("fan_in_fan_out") else delta
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()
