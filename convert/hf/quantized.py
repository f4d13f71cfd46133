"""Quantized models of transformers: how they are told, and what is said of them.

Sources: transformers 5, utils/quantization_config.py; AutoGPTQ's quantize_config.json; AutoAWQ's
quant_config.json.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxneox.errors import UserError
from jaxneox.reading import read_object

QUANTIZATION = ("quantization_config", "compression_config")
"""Keys of config.json."""

FILES = ("quantize_config.json", "quant_config.json")
"""What older tools wrote beside a config.json that does not say it."""

TENSORS = (
    *("qweight", "qzeros", "g_idx"),  # GPTQ and AWQ
    *("SCB", "weight_format", "weight.absmax", "weight.quant_map"),  # bitsandbytes
    *("weight_packed", "weight_scale", "weight_scale_inv"),  # compressed-tensors, FP8
)
"""Ends of the names of tensors that no other model has."""

TITLES = {"bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8"}
SHORT = 40  # characters of a name that a stranger has written


def refuse_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are quantized.

    Args:
        folder: of transformers' files.
        config: the content of its config.json.

    Raises:
        UserError: says by what they are quantized, and what to take instead.
    """
    for name in QUANTIZATION:
        if config.get(name) is not None:
            raise quantized(folder / "config.json", described(config[name]) or name)
    for name in FILES:
        if (folder / name).is_file():
            raise quantized(folder / name, described(read_object(folder / name)) or name)


def refuse_quantized_tensors(folder: Path, names: Iterable[str]) -> None:
    """Refuse a model whose tensors are quantized, although no file says so.

    Args:
        folder: of transformers' files.
        names: of the tensors.

    Raises:
        UserError: names one of them.
    """
    ends = tuple(f".{end}" for end in TENSORS)
    found = next((name for name in names if name.endswith(ends)), None)
    if found is not None:
        raise quantized(folder, f"it has {found}")


def quantized(file: Path, how: str) -> UserError:
    """Make the error of a quantized model."""
    return UserError(
        f"{file}: the weights are quantized ({how}), and only those in float32, bfloat16 or "
        "float16 are read: take the model from which it was made; or, where transformers can, let "
        "it write such weights: from_pretrained(MODEL).dequantize().save_pretrained(FOLDER)"
    )


def described(settings: Any) -> str:
    """Say in a few words what quantization settings ask for; nothing if they are unknown."""
    if not isinstance(settings, Mapping):
        return ""
    method, bits = settings.get("quant_method"), settings.get("bits", settings.get("w_bit"))
    words = []
    if isinstance(method, str) and len(method) <= SHORT:
        words.append(TITLES.get(method, method))
    for size in (4, 8):
        if settings.get(f"load_in_{size}bit") is True:
            bits = size
    if type(bits) is int:
        words.append(f"{bits} bits")
    kind = settings.get("bnb_4bit_quant_type")
    if bits == 4 and kind in ("nf4", "fp4"):
        words.append(kind)
    return ", ".join(words)
