"""A folder of PEFT's as an adapter run of ours."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.hf.choice import choose
from convert.ours.base import open_base, sums_of
from convert.ours.merged import LEFT_OUT
from convert.ours.next_command import after
from convert.parts import nbytes
from convert.peft.blocks import BlockLayout, joined, lay_out
from convert.peft.check import check
from convert.peft.modules import modules_of
from convert.peft.settings import read_settings
from convert.peft.tensors import FILES, read_adapters
from convert.readers.adapter import SUFFIX, open_adapter, read_axes
from convert.readers.hf_files import PEFT
from convert.readers.hub import download, is_hub_name
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.writers.jaxneox import JaxneoxWriter
from convert.writers.staging import Staging, refuse_existing
from jaxneox import base_model
from jaxneox.base_model import META
from jaxneox.config import Settings, saved_keys
from jaxneox.errors import UserError
from jaxneox.model.lora import TARGETS

FLOAT32 = np.dtype(np.float32)
PREFIXES = ("layers.attention.", "layers.mlp.")
"""Of our matrices; what follows is what `lora.targets` calls them."""


def convert_folder(src: str, dst: Path, where: str | None) -> list[str]:
    """Convert an adapter of PEFT's, and compare what both add to every weight.

    Args:
        src: a folder of PEFT's, or owner/name.
        dst: a path where nothing exists yet.
        where: the base, a run of ours or a model of another program; by default what the folder
            names.

    Returns:
        What was done, in lines for the terminal.

    Raises:
        UserError: the adapter is not plain LoRA, does not belong to the base, or cannot be kept
            exactly.
    """
    refuse_existing(dst)
    folder = download(src, (PEFT, *FILES)) if is_hub_name(src) else Path(src)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with an adapter_config.json")
    settings = read_settings(folder)
    where = where or settings.base
    if where is None:
        raise UserError(f"{folder}: does not name its base; name it with --base WHERE")
    base = open_base(where)
    model = replace(base.model, shared_norm=False)  # no matrix depends on it
    family = choose(model, base.conversion.get("from"))
    modules = modules_of(family, model)
    theirs = read_adapters(folder, settings, family, modules, model.num_layers)
    layout = lay_out(theirs, settings, folder)
    keys, shapes = keys_beside(base, where, layout, settings.dropout), shapes_beside(base, layout)
    with Staging(dst, nbytes(shapes, dict.fromkeys(shapes, FLOAT32))) as staged:
        writer = JaxneoxWriter(staged, 0, {n: (shape, FLOAT32) for n, shape in shapes.items()})
        write_matrices(writer, shapes, layout)
        if base.tokenizer is not None:
            base.tokenizer.save(staged / "tokenizer")
        record = {
            META: base_model.record(where, sums_of(base)),
            "conversion": {"from": "PEFT", "folder": src},
        }
        writer.finish(keys, record)
        compared = check(open_adapter(staged), theirs, modules, dst)
    return [
        compared,
        f"{dst}   an adapter of rank {layout.rank} and scale {layout.scale:.6g}, beside {where}: "
        f"jaxneox.load({str(dst)!r})",
        after(dst),
    ]


def keys_beside(
    base: JaxneoxCheckpoint, where: str, layout: BlockLayout, dropout: float
) -> dict[str, Any]:
    """Return the keys of the run: those of the base, with the block `lora`."""
    matrices = {matrix for matrix, _ in layout.blocks}
    kept = {name: value for name, value in base.keys.items() if name not in LEFT_OUT}
    block = {
        "base": where,
        "rank": layout.rank,
        "alpha": layout.alpha,
        "dropout": dropout,
        "targets": [name for name in TARGETS if matrices & {prefix + name for prefix in PREFIXES}],
        "rslora": layout.stabilized,
    }
    return saved_keys(Settings(kept | {"lora": block}).resolve(dp=1, vocab_size=None))


def shapes_beside(base: JaxneoxCheckpoint, layout: BlockLayout) -> dict[str, tuple[int, ...]]:
    """Return the shapes of A and B beside each matrix that has them in some layer."""
    shapes = {}
    for matrix, reads in read_axes(base.model).items():
        if any(matrix == adapted for adapted, _ in layout.blocks):
            layers, *axes = base.shapes[matrix]
            shapes[f"{matrix}{SUFFIX}.a"] = (layers, *axes[:reads], layout.rank)
            shapes[f"{matrix}{SUFFIX}.b"] = (layers, layout.rank, *axes[reads:])
    return shapes


def write_matrices(
    writer: JaxneoxWriter, shapes: Mapping[str, tuple[int, ...]], layout: BlockLayout
) -> None:
    """Write A and B of every layer; zeros where a layer has none there."""
    for matrix in dict.fromkeys(name.removesuffix(f"{SUFFIX}.{name[-1]}") for name in shapes):
        names = [f"{matrix}{SUFFIX}.{letter}" for letter in "ab"]
        (layers, *reads, _), (_, _, *writes) = (shapes[name] for name in names)
        for layer in range(layers):
            blocks = layout.blocks.get((matrix, layer), [])
            both = joined(blocks, layout, tuple(reads), tuple(writes))
            for name, x in zip(names, both, strict=True):
                writer.write(name, layer, x)
