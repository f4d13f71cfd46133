"""An adapter of ours as a folder of PEFT's."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from convert.casting import cast, chosen
from convert.hf.choice import choose
from convert.hf.family import Family
from convert.peft.check import EXACT, check
from convert.peft.modules import AdaptedModule, modules_of, shortest_names
from convert.peft.settings import read_settings, written_settings
from convert.peft.tensors import FILES, PREFIX, read_adapters
from convert.proof.case import SLACK
from convert.readers.adapter import AdapterCheckpoint
from convert.readers.hf_files import PEFT
from convert.readers.hub import SCHEME, is_hub_name
from convert.writers.staging import Staging
from jaxneox.config.schema import ModelConfig
from jaxneox.console.hints import command
from jaxneox.errors import UserError, listed
from jaxneox.reading import read_object

FLOAT32 = np.dtype(np.float32)


def export(adapter: AdapterCheckpoint, dst: Path, dtype: str) -> list[str]:
    """Write an adapter for PEFT, and compare what both add to every weight.

    Args:
        adapter: ours.
        dst: a path where nothing exists yet.
        dtype: the type of the matrices, or `keep`.

    Returns:
        What was done, in lines for the terminal.

    Raises:
        UserError: parameters that are not LoRA's were trained, or no architecture of transformers
            has the base's function.
    """
    if adapter.others:
        raise UserError(
            f"{adapter.location.folder}: holds {listed(adapter.others)} beside LoRA's matrices, "
            "which an adapter has no place for: "
            f"`{command('convert', 'merge-adapter', adapter.location.folder, 'DST')}` makes one "
            "model of all"
        )
    model = replace(adapter.whole, shared_norm=False)  # no matrix depends on it
    named, family = base_there(adapter, model)
    every = modules_of(family, model)
    modules = [module for module in every if module.matrix in adapter.matrices]
    shapes = {
        f"{m}_lora.{x}": adapter.shapes[f"{m}_lora.{x}"] for m in adapter.matrices for x in "ab"
    }
    numbers = sum(len(m.inputs) + len(m.outputs) for m in modules)
    size = FLOAT32.itemsize * numbers * adapter.lora.rank * model.num_layers
    with Staging(dst, size) as folder:
        names = shortest_names(modules, every)
        settings = written_settings(adapter.lora, names, modules[0].transposed, named)
        (folder / PEFT).write_text(json.dumps(settings, indent=2) + "\n")
        kept = {adapter.dtype(name) for name in shapes}
        kinds = {chosen(dtype, kind) for kind in kept}
        _save(folder / FILES[0], dict(_tensors(adapter, modules, dtype)))
        back = read_settings(folder)
        theirs = read_adapters(folder, back, family, every, model.num_layers)
        limits = [EXACT, *(SLACK * float(ml_dtypes.finfo(k).eps) for k in kinds - kept)]
        compared = check(adapter, theirs, modules, dst, max(limits))
    return [
        compared,
        f"{dst}   a PEFT adapter for {family.architecture}: {', '.join(names)}",
        *_how_to_load(adapter, dst, named),
    ]


def base_there(adapter: AdapterCheckpoint, model: ModelConfig) -> tuple[str | None, Family]:
    """Return the base's name, None if transformers cannot open it, and its architecture."""
    where, preferred = adapter.where, None
    named = where.removeprefix(SCHEME) if is_hub_name(where) else None
    config = Path(where) / "config.json"
    if config.is_file():
        named = where
        architectures = read_object(config).get("architectures")
        preferred = (
            str(architectures[0]) if isinstance(architectures, list) and architectures else None
        )
    return named, choose(model, preferred)


def _tensors(
    adapter: AdapterCheckpoint, modules: list[AdaptedModule], dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    for layer in range(adapter.model.num_layers):
        read = {matrix: adapter.low_rank(matrix, layer) for matrix in adapter.matrices}
        for module in modules:
            both = module.taken(*read[module.matrix])
            for letter, values in zip("AB", both, strict=True):
                name = f"{PREFIX}{module.in_layer(layer)}.lora_{letter}.weight"
                stored = cast(name, values, chosen(dtype, values.dtype))
                yield name, np.ascontiguousarray(stored)


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    path.chmod((path.parent / PEFT).stat().st_mode & 0o777)  # safetensors lets nobody else read it


def _how_to_load(adapter: AdapterCheckpoint, dst: Path, named: str | None) -> list[str]:
    if named is not None:
        return [f"Next: peft.AutoPeftModelForCausalLM.from_pretrained({str(dst)!r})"]
    shared = ["--copy-shared-norm"] * adapter.whole.shared_norm
    to_hf = command("convert", "to-hf", adapter.where, "BASE", *shared)
    return [
        f"its base is {adapter.where}, which transformers does not open: `{to_hf}` writes it",
        "Next: peft.PeftModel.from_pretrained("
        f"transformers.AutoModelForCausalLM.from_pretrained('BASE'), {str(dst)!r})",
    ]
