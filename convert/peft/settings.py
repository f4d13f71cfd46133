"""The settings of PEFT's adapters, adapter_config.json, as PEFT 0.8 to 0.21 write them.

Source: peft 0.21, tuners/lora/config.py and config.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from convert.peft import patterns
from convert.readers.hf_files import PEFT
from convert.readers.hub import is_hub_name
from jaxneox.config.schema import LoraConfig
from jaxneox.errors import UserError
from jaxneox.reading import read_object

NEUTRAL: tuple[Any, ...] = (None, False, [], {}, "")

NOT_PLAIN: dict[str, tuple[tuple[Any, ...], str]] = {
    "bias": (("none", None), "biases that were trained as well"),
    "use_dora": (NEUTRAL, "DoRA"),
    "use_qalora": (NEUTRAL, "QALoRA"),
    "use_bdlora": (NEUTRAL, "BD-LoRA"),
    "lora_bias": (NEUTRAL, "biases of lora_B"),
    "modules_to_save": (NEUTRAL, "modules that were trained whole"),
    "layers_to_transform": (NEUTRAL, "adapters of some layers alone"),
    "layer_replication": (NEUTRAL, "layers that are repeated"),
    "target_parameters": (NEUTRAL, "adapters of parameters that are no module's weight"),
    "trainable_token_indices": (NEUTRAL, "rows of the embedding that were trained"),
    "megatron_config": (NEUTRAL, "modules of Megatron-LM"),
    "alora_invocation_tokens": (NEUTRAL, "adapters that begin at some token (aLoRA)"),
    "task_type": (("CAUSAL_LM", None), "another task than the next token"),
    "init_lora_weights": (
        (True, False, None, "gaussian", "eva", "orthogonal"),
        "a way to begin that changes the base itself: convert it with PEFT's "
        "path_initial_model_for_weight_conversion first",
    ),
}
"""Keys that must have one of these values, and what another means."""

HARMLESS = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_type"}
HARMLESS |= {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"}
HARMLESS |= {"target_modules", "exclude_modules", "fan_in_fan_out", "layers_pattern"}
HARMLESS |= {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core"}
HARMLESS |= {"qalora_group_size", "runtime_config", "peft_version", "ensure_weight_tying"}
"""Keys that are read, or that change nothing where the others are as they must be."""


@dataclass(frozen=True)
class PeftSettings:
    """What an adapter_config.json says of plain LoRA.

    Attributes:
        rank, alpha: of modules that the patterns do not name.
        stabilized: whether alpha / sqrt(rank) scales, else alpha / rank.
        dropout: of what lora_A reads, in training.
        ranks, alphas: by the names of modules, or their ends.
        targets: names of the modules that are adapted, or their ends; None where an expression
            says which.
        base: the name or the folder of the model that it belongs to.
    """

    rank: int
    alpha: float
    stabilized: bool
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    base: str | None
    targets: tuple[str, ...] | None = None

    def adapts(self, module: str) -> bool:
        """Tell whether PEFT makes an adapter for a module: it ignores other matrices."""
        ends = self.targets
        return ends is None or any(f".{module}".endswith(f".{end}") for end in ends)

    def rank_of(self, module: str) -> int:
        return patterns.value_of(self.ranks, module, self.rank)

    def alpha_of(self, module: str) -> float:
        return patterns.value_of(self.alphas, module, self.alpha)

    def scale_of(self, module: str) -> float:
        rank = self.rank_of(module)
        return self.alpha_of(module) / (sqrt(rank) if self.stabilized else rank)


def read_settings(folder: Path) -> PeftSettings:
    """Read the settings of a folder.

    Raises:
        UserError: there are none, a value is none of its kind, or the adapter is not plain LoRA.
    """
    file = folder / PEFT
    config = read_object(file)
    refuse_other_adapters(file, config)
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise UserError(f"{file}: {name}: found {config[name]!r}, expected a block")
        patterns.check_keys(f"{file}: {name}", config.get(name) or {})
    ranks = config.get("rank_pattern") or {}
    alphas = config.get("alpha_pattern") or {}
    stabilized = config.get("use_rslora", False)
    if not isinstance(stabilized, bool | None):
        raise UserError(f"{file}: use_rslora: found {stabilized!r}, expected true or false")
    return PeftSettings(
        rank=_rank(file, "r", config.get("r", 8)),
        alpha=_alpha(file, "lora_alpha", config.get("lora_alpha", 8)),
        stabilized=bool(stabilized),
        dropout=_share(file, "lora_dropout", config.get("lora_dropout") or 0.0),
        ranks={key: _rank(file, f"rank_pattern.{key}", value) for key, value in ranks.items()},
        alphas={key: _alpha(file, f"alpha_pattern.{key}", value) for key, value in alphas.items()},
        base=_base(file, config),
        targets=_targets(file, config.get("target_modules")),
    )


def refuse_other_adapters(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse whatever is not plain LoRA.

    Raises:
        UserError: names the first key that makes it something else.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{file}: peft_type is {kind!r}, and only LORA can be converted")
    for name, (neutral, meaning) in NOT_PLAIN.items():
        value = config.get(name)
        if not any(value is one or (value == one and type(value) is type(one)) for one in neutral):
            raise UserError(
                f"{file}: {name} is {value!r}, which is {meaning}: only plain LoRA can be converted"
            )
    for name, value in config.items():
        if name not in NOT_PLAIN and name not in HARMLESS and value not in NEUTRAL:
            raise UserError(
                f"{file}: {name} is {value!r}, which is unknown here: it may change what the "
                "adapter computes; take it out of the file if it does not"
            )


def written_settings(
    lora: LoraConfig, targets: list[str], transposed: bool, base: str | None
) -> dict[str, Any]:
    """Return the content of adapter_config.json, with the keys that PEFT knows since 0.8.

    Args:
        lora: rank, scale and dropout.
        targets: the modules, by their names or ends of them.
        transposed: whether their weights are [in, out].
        base: the folder of the model that it belongs to, or its name with `@` and a revision.
    """
    name, revision = base, ""
    if base is not None and is_hub_name(base):
        name, _, revision = base.partition("@")
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": name,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "revision": revision or None,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_rslora": lora.stabilized,
    }


def _base(file: Path, config: Mapping[str, Any]) -> str | None:
    """Return the base's name, with its revision where it is of the hub."""
    names = ("base_model_name_or_path", "revision")
    base, revision = (config.get(name) or None for name in names)
    for name, value in zip(names, (base, revision), strict=True):
        if not isinstance(value, str | None):
            raise UserError(f"{file}: {name}: found {value!r}, expected a name")
    return f"{base}@{revision}" if base and revision and is_hub_name(base) else base


def _targets(file: Path, value: Any) -> tuple[str, ...] | None:
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{file}: target_modules: found {value!r}, expected names of modules")
    return tuple(value)


def _rank(file: Path, name: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 20:
        raise UserError(f"{file}: {name}: found {value!r}, expected a rank of at least 1")
    return value


def _alpha(file: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not (0 < value < 1e30 and isfinite(value)):
        raise UserError(f"{file}: {name}: found {value!r}, expected a number above 0")
    return value


def _share(file: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise UserError(f"{file}: {name}: found {value!r}, expected a share from 0 to below 1")
    return float(value)
