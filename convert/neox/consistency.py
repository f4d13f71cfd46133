"""Checks a checkpoint's tensors against its configuration, and names every contradiction."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert.casting import as_computed
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_files import layer_file
from convert.readers.neox_open import require_modules
from convert.rules import neox
from convert.rules.rule import sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, listed

REPEATED_IN_ARGS = {
    "num_layers": lambda m: m.num_layers,
    "hidden_size": lambda m: m.hidden_size,
    "num_attention_heads": lambda m: m.attention.num_heads,
    "max_position_embeddings": lambda m: m.positions.max_positions,
}
"""Fields of the architecture that the mp_rank files' own `args` repeat."""

MOST_FILES = 2
"""The files that an error names for each problem; the others are counted."""


def check_consistency(source: NeoxCheckpoint) -> None:
    """Check the files against the configuration.

    Raises:
        UserError: they disagree; the message lists everything in which they do.
    """
    model, folder = source.model, source.files.folder
    problems = [*_arguments(source, model)]
    if not problems and source.shards.keys() < neox.modules(model, source.llama_mlp).keys():
        require_modules(source, neox.modules(model, source.llama_mlp))
    if source.layers != model.num_layers:
        problems.append(f"num_layers is {model.num_layers}, the files have {source.layers} blocks")
    _raise(folder, problems)
    _raise(folder, [*_divisions(source, model)])
    _raise(folder, [*_tensors(source, model)])
    _raise(folder, [*_buffers(source, model)])
    _refuse_quirks(source, model)


def unused(model: ModelConfig) -> tuple[str, ...]:
    """Return the tensors of a block that are saved and have no effect."""
    if not model.shared_norm:
        return ()
    return tuple(r.theirs for r in neox.norm("post_attention_layernorm", "", model))


def _arguments(source: NeoxCheckpoint, model: ModelConfig) -> Iterator[str]:
    for path, state in zip(source.files.ranks, source.states, strict=True):
        args = state.get("args")
        for name, of in REPEATED_IN_ARGS.items() if isinstance(args, Mapping) else ():
            stated = args.get(name) if args else None
            if isinstance(stated, int) and stated != of(model):
                yield f"{name} is {of(model)}, {path.name} says {stated}"


def _divisions(source: NeoxCheckpoint, model: ModelConfig) -> Iterator[str]:
    sizes = {}
    if set(model.pattern) != {"mamba"}:
        sizes["num_kv_heads"] = model.attention.kv_heads
    if "dense" in model.pattern:
        sizes["mlp width"] = model.mlp.size
    if model.experts is not None:
        sizes["moe_num_experts"] = model.experts.count
    if model.mamba is not None:
        sizes["mamba channels"] = model.mamba.channels
    if model.head == "reward":
        sizes["hidden_size"] = model.hidden_size
    for name, size in sizes.items():
        if size % source.mp:
            yield f"{name} {size} does not divide over the {source.mp} ranks of the files"


def _tensors(source: NeoxCheckpoint, model: ModelConfig) -> Iterator[str]:
    """Yield each problem of a tensor once, after the files that have it."""
    files_of: dict[str, list[str]] = {}
    for file, problem in _misfits(source, model):
        files_of.setdefault(problem, []).append(file)
    for problem, files in files_of.items():
        yield f"{listed(files, MOST_FILES)}: {problem}"


def _misfits(source: NeoxCheckpoint, model: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield a file and a problem for each tensor that the configuration does not give."""
    expected = neox.modules(model, source.llama_mlp)
    sizes = sizes_of(model, source.mp)
    dtype = source.dtype
    for index in sorted(expected.keys() | source.shards.keys()):
        inner = neox.FIRST_BLOCK <= index < neox.FIRST_BLOCK + model.num_layers
        rules = expected.get(index, ()) + (neox.shared(model) if inner else ())
        shapes = {rule.theirs: rule.shape(sizes) for rule in rules}
        ignored = neox.BUFFERS + (unused(model) if inner else ())
        ranks = source.shards.get(index, [{}])
        for rank, tensors in enumerate(ranks):
            file = _file(source, index, rank)
            for name in sorted(shapes.keys() - tensors.keys()):
                yield file, f"{name} {list(shapes[name])} is missing"
            for name in sorted(tensors.keys() - shapes.keys()):
                if name not in ignored:
                    shape = list(tensors[name].shape)
                    yield file, f"{name} {shape} is not in this architecture"
            for name in sorted(tensors.keys() & shapes.keys()):
                tensor = tensors[name]
                if tensor.shape != shapes[name]:
                    expect = list(shapes[name])
                    shape = list(tensor.shape)
                    yield file, f"{name} is {shape}, the configuration gives {expect}"
                elif tensor.dtype != dtype:
                    yield file, f"{name} is {tensor.dtype}, the embedding {dtype}"


def _buffers(source: NeoxCheckpoint, model: ModelConfig) -> Iterator[str]:
    """Check that the frequencies and slopes that were saved are those that are computed here."""
    expected_by_name = {
        "attention.rotary_emb.inv_freq": lambda: _frequencies(model),
        "attention.alibi_embed.slopes": lambda: _slopes(model),
    }
    for index, ranks in source.shards.items():
        for rank, tensors in enumerate(ranks):
            for name, computed in expected_by_name.items():
                if name not in tensors:
                    continue
                saved, expected = tensors[name].numpy(), computed()
                if name.endswith("slopes"):
                    expected = np.split(expected, source.mp)[rank]
                if not as_computed(saved, expected):
                    yield (
                        f"{_file(source, index, rank)}: {name} is not what the configuration gives "
                        f"({saved.ravel()[:3]}…, expected {expected.ravel()[:3]}…)"
                    )


def _refuse_quirks(source: NeoxCheckpoint, model: ModelConfig) -> None:
    """Refuse settings with which NeoX computes what no setting of ours does."""
    given, kind = source.given, model.positions.kind
    if source.llama_mlp and model.parallel_residual:
        raise UserError(
            f"{source.files.folder}: gpt_j_residual with an MLP of mlp_type llama: NeoX fails on "
            "this (it adds a bias that is not there), so there is nothing that it computed"
        )
    if given.get("apply_query_key_layer_scaling") and kind in ("alibi", "rpe"):
        raise UserError(
            f"{source.files.folder}: apply_query_key_layer_scaling with {kind}: NeoX multiplies "
            "the positions' bias by the number of the layer, which no model here does"
        )


def _frequencies(model: ModelConfig) -> np.ndarray:
    from jaxneox.model.positions import frequencies

    width = int(model.attention.head_dim * model.positions.rotary_fraction)
    return frequencies(width, model.positions.rotary_base)


def _slopes(model: ModelConfig) -> np.ndarray:
    from jaxneox.model.positions import alibi_slopes

    return np.asarray(alibi_slopes(model.attention.num_heads), np.float32)


def _file(source: NeoxCheckpoint, index: int, rank: int) -> str:
    if source.engine == "sequential":
        files = source.files.ranks or source.files.merged
        return f"{files[rank].name}, module {index}"
    return layer_file(index, rank)


def _raise(folder: Any, problems: list[str]) -> None:
    if problems:
        raise UserError(
            f"{folder}: its tensors contradict the configuration in {len(problems)} ways: "
            + listed(problems, 64, "; ")
        )
