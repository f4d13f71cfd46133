"""Opens a GPT-NeoX checkpoint, and checks that its files are complete and of one run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_files import MOST_RANKS, find_files, layer_file, missing_files, rank_file
from convert.readers.neox_mlp_keys import without_mlp_type
from convert.rules.neox import EMBEDDING
from jaxneox.config import Settings, load_yaml
from jaxneox.config.swapped import exchanged
from jaxneox.errors import UserError, listed


def open_neox(
    src: Path, *, step: int | None = None, config: list[Path] | None = None
) -> NeoxCheckpoint:
    """Open the checkpoint at `src` with its own YAML, or the given one, and check its files."""
    files = find_files(src, step)
    yamls = config or files.yamls
    if not yamls:
        raise UserError(
            f"{files.folder}: has no YAML (NeoX saves one under configs/), and the architecture is "
            "nowhere else; give it with --config FILE.yml"
        )
    source = NeoxCheckpoint(files, yamls, load_yaml(yamls))
    _check_embedding(source)
    _undo_exchange(source)
    if source.llama_mlp:
        source.given = without_mlp_type(source.given)
    _check_ranks(source)
    return source


def require_modules(source: NeoxCheckpoint, modules: Iterable[int]) -> None:
    """Raise a UserError that names the files of all modules which are missing."""
    absent = sorted(set(modules) - source.shards.keys())
    if absent and source.engine == "pipeline":
        raise missing_files(source.files.folder, _files_of(source, absent, range(source.mp)))


def _undo_exchange(source: NeoxCheckpoint) -> None:
    """Swap layers and heads if the YAML has them exchanged, as that of pythia-12b-deduped has."""
    keys = exchanged(source.given, source.layers)
    if keys is not None:
        source.given = keys
        source.notes.append(
            f"{source.yamls[0]}: num-layers and num-attention-heads are exchanged: the files have "
            f"{source.layers} layers, so that {keys['num_attention_heads']} are the heads"
        )


def _check_embedding(source: NeoxCheckpoint) -> None:
    """Check the embedding, whose shards show the number of ranks, the vocabulary and the type."""
    name = "word_embeddings.weight"
    if EMBEDDING not in source.shards and source.engine == "pipeline":
        raise missing_files(source.files.folder, _files_of(source, [EMBEDDING], range(source.mp)))
    for rank, tensors in enumerate(source.shards.get(EMBEDDING, [{}])):
        if name not in tensors or len(tensors[name].shape) != 2:
            raise UserError(
                f"{source.files.folder}: module {EMBEDDING} of rank {rank} has no matrix {name}; "
                f"it has {listed(sorted(tensors)) or 'nothing'}"
            )


def _check_ranks(source: NeoxCheckpoint) -> None:
    files, mp = source.files, source.mp
    steps = {
        path.name: state["iteration"]
        for path, state in zip(files.ranks, source.states, strict=True)
        if type(state.get("iteration")) is int
    }
    if files.step is not None:
        steps[files.folder.name] = files.step
    if len(set(steps.values())) > 1:
        listed = ", ".join(f"{name} of step {step}" for name, step in steps.items())
        raise UserError(f"{files.folder}: its files are of different steps: {listed}")
    mp_size = max([Settings(source.given).parallel.tp, *_arguments(source, "model_parallel_size")])
    if mp_size > 1 and files.merged:
        raise UserError(
            f"{files.folder}: holds what zero_to_fp32.py wrote of a run with model-parallel-size "
            f"{mp_size}, of whose ranks it does not make one model: convert the global_stepN folder"
        )
    mp_size = min(mp_size, MOST_RANKS)
    if mp_size > mp:
        names = _files_of(source, source.files.layers, range(mp, mp_size))
        raise missing_files(files.folder, names)
    for state in source.states if source.engine == "pipeline" else []:
        total = state.get("mp_world_size")  # the pipeline engine counts stages * ranks
        if isinstance(total, int) and total > len(files.ranks):
            absent = range(len(files.ranks), min(total, MOST_RANKS))
            raise missing_files(files.folder, [rank_file(n) for n in absent])


def _files_of(source: NeoxCheckpoint, modules: Iterable[int], ranks: Iterable[int]) -> list[str]:
    if source.engine == "sequential":
        return [rank_file(rank) for rank in ranks]
    return [layer_file(index, rank) for index in modules for rank in ranks]


def _arguments(source: NeoxCheckpoint, name: str) -> list[Any]:
    """Return what the files' own arguments say about a key; not all versions save them."""
    args = [state.get("args") for state in source.states]
    return [a[name] for a in args if isinstance(a, Mapping) and isinstance(a.get(name), int)]
