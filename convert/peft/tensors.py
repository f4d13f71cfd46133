"""The matrices of PEFT's adapters, adapter_model.safetensors, by the modules that they belong to.

Source: peft 0.21, utils/save_and_load.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.fate import not_finite
from convert.hf.family import Family
from convert.peft.modules import AdaptedModule
from convert.peft.settings import PeftSettings
from convert.readers.hf_files import DTYPES, HfTensor, tensors
from jaxneox.errors import UserError, listed

FILES = ("adapter_model.safetensors", "adapter_model.bin")
FLOATS = tuple(np.dtype(dtype) for dtype in DTYPES.values())
PREFIX = "base_model.model."
NAME = re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight", re.DOTALL)

OTHERS = {
    "lora_embedding_": "an adapter of an embedding",
    "lora_magnitude_vector": "DoRA's",
    ".lora_B.bias": "a bias of lora_B",
    ".bias": "a bias that was trained as well",
    "modules_to_save": "a module that was trained whole",
    "trainable_tokens": "rows of the embedding that were trained",
}
"""What tensors are that plain LoRA does not have, by a part of their names."""


@dataclass(frozen=True)
class ModuleAdapter:
    """The two matrices of one module in one layer, of which none has been read.

    Attributes:
        module: of the family.
        layer: its number.
        a: [rank, in].
        b: [out, rank].
        scale: what their product is multiplied with.
    """

    module: AdaptedModule
    layer: int
    a: HfTensor
    b: HfTensor
    scale: float

    @property
    def name(self) -> str:
        return self.module.in_layer(self.layer)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read both in float32, which holds the numbers of all types that are read.

        Raises:
            UserError: a number is NaN or infinite, or the file is damaged.
        """
        both = self.a.numpy().astype(np.float32), self.b.numpy().astype(np.float32)
        for name, values in zip("AB", both, strict=True):
            if bad := not_finite(values):
                raise UserError(
                    f"{self.name}.lora_{name}: {bad} of {values.size} numbers are NaN or infinite"
                )
        return both


Adapters = Mapping[tuple[str, int], ModuleAdapter]
"""By a module's name with `{}` for the layer, and the layer."""


def read_adapters(
    folder: Path,
    settings: PeftSettings,
    family: Family,
    modules: tuple[AdaptedModule, ...],
    layers: int,
) -> Adapters:
    """Find the matrices of a folder and hold them against the model's modules and the settings.

    Raises:
        UserError: there are none, others than a model of this family has, or of other shapes.
    """
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: has no {FILES[0]}; copy the whole adapter")
    there = _by_module(file, tensors([file]))
    known = {m.in_layer(layer): (m, layer) for m in modules for layer in range(layers)}
    unknown = [name for name in there if name not in known]
    if unknown:
        ends = sorted({module.name.rpartition(".")[2] for module in modules})
        raise UserError(
            f"{file}: adapts {listed(unknown)}, expected modules of the {layers} layers of "
            f"{family.architecture}: {', '.join(ends)}"
        )
    found = {}
    for name, pair in there.items():
        if not settings.adapts(name):
            raise UserError(
                f"{file}: holds matrices of {name}, which is none of target_modules in "
                "adapter_config.json, so that PEFT ignores them: correct one of the two"
            )
        module, layer = known[name]
        _check(file, name, pair, module, settings.rank_of(name))
        scale = settings.scale_of(name)
        adapter = ModuleAdapter(module, layer, pair["A"], pair["B"], scale)
        found[module.name, layer] = adapter
    if not found:
        raise UserError(f"{file}: holds no tensor; expected lora_A and lora_B of some modules")
    return found


def _by_module(file: Path, there: Mapping[str, HfTensor]) -> dict[str, dict[str, HfTensor]]:
    pairs: dict[str, dict[str, HfTensor]] = {}
    for name, tensor in there.items():
        match = NAME.fullmatch(name)
        if match is None:
            what = next((what for part, what in OTHERS.items() if part in name), "none of LoRA's")
            raise UserError(f"{file}: {name} is {what}: only plain LoRA can be converted")
        pairs.setdefault(match["module"], {})[match["matrix"]] = tensor
    return pairs


def _check(
    file: Path, name: str, pair: Mapping[str, HfTensor], module: AdaptedModule, rank: int
) -> None:
    expected = {"A": (rank, len(module.inputs)), "B": (len(module.outputs), rank)}
    for matrix, shape in expected.items():
        if matrix not in pair:
            raise UserError(f"{file}: {name}.lora_{matrix} is missing; copy the whole adapter")
        tensor = pair[matrix]
        if tensor.shape != shape:
            raise UserError(
                f"{file}: {name}.lora_{matrix} is {list(tensor.shape)}, expected {list(shape)} by "
                "adapter_config.json and the base"
            )
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"{file}: {name}.lora_{matrix} has numbers of another type than {', '.join(DTYPES)}"
            )
