"""Facts of a GPT-NeoX checkpoint, from the files' names and pickles and the copies of ranks."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from convert.inspection import finite, neox_drift, neox_optimizer
from convert.inspection.architecture import of_model
from convert.inspection.facts import Architecture, Facts
from convert.inspection.neox_uses import uses
from convert.neox.consistency import check_consistency
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_files import LAYER, RANK, STEP, find_files, step_folder
from convert.readers.neox_open import open_neox
from convert.readers.neox_zero import PARTITION
from convert.readers.torch_file import TorchFile
from convert.rules.neox import BUFFERS, EMBEDDING, FIRST_BLOCK
from jaxneox.errors import UserError

GENERATIONS = {
    "2023": "NeoX of 2023 (it saved rotary's frequencies)",
    "before 2024-09": "NeoX before 2024-09 (by the names of the MLP)",
    "head": "NeoX since 2024-09 (by the names of the MLP)",
}


def inspect_neox(
    path: Path,
    *,
    step: int | None = None,
    config: list[Path] | None = None,
    drift: bool = False,
    numbers: bool = False,
) -> Facts:
    """Inspect a GPT-NeoX checkpoint.

    Args:
        path: a run, or one of its steps.
        step: a step of the run; by default the one that would be loaded.
        config: YAML files in place of the checkpoint's own.
        drift: whether to read the ranks' copies however large they are.
        numbers: whether to read all weights however large they are.
    """
    folder = step_folder(path, step)
    facts = _from_names(folder)
    source = _opened(facts, config)
    why = None
    if source is not None:
        _from_tensors(facts, source)
        facts.optimizer, why = neox_optimizer.find(source, facts)
        facts.drift = neox_drift.find(source, facts, whatever_size=drift)
    _measure(facts, source)
    if source is not None:
        finite.note_not_finite(facts, finite.weights_of_neox(source), whatever_size=numbers)
    facts.uses = uses(facts, source, why, _as_typed(path, folder, step, config))
    return facts


def _from_names(folder: Path) -> Facts:
    """Record the facts that hold whatever the files contain."""
    names = [child.name for child in folder.iterdir()]
    grid = [m for name in names if (m := LAYER.fullmatch(name))]
    ranks = [m for name in names if (m := RANK.fullmatch(name))]
    mp = 1 + max((int(m[2]) for m in grid), default=len(ranks) - 1)
    facts = Facts(folder, "neox", "pipeline" if grid else "sequential")
    facts.parallel = {"tp": mp, "pp": max(1, len(ranks) // mp) if grid else 0, "dp": None}
    number = STEP.fullmatch(folder.resolve().name)
    if number:
        facts.step = int(number[1])
        beside = folder.resolve().parent.iterdir()
        facts.steps = sorted(int(m[1]) for p in beside if (m := STEP.fullmatch(p.name)))
    return facts


def _opened(facts: Facts, config: list[Path] | None) -> NeoxCheckpoint | None:
    """Open the weights, checked against a YAML; return None if files are missing or damaged."""
    facts.problems += _damaged(facts.path)
    try:
        files = find_files(facts.path)
        if not facts.problems and not (config or files.yamls):
            return _without_yaml(NeoxCheckpoint(files, [], {}))
        if not facts.problems:
            source = open_neox(facts.path, config=config)
            check_consistency(source)
            return source
    except UserError as error:
        facts.problems.append(str(error))
    return None


def _without_yaml(source: NeoxCheckpoint) -> NeoxCheckpoint:
    """Raise a UserError for foreign tensors, and if there is no embedding to tell the sizes."""
    name = "word_embeddings.weight"
    for tensors in source.shards.get(EMBEDDING, [{}]):
        if name not in tensors or len(tensors[name].shape) != 2:
            raise UserError(f"{source.files.folder}: has no matrix {name}; copy it whole")
    return source


def _damaged(folder: Path) -> list[str]:
    """Describe what is wrong with each file of weights that cannot be opened."""
    errors = []
    for path in sorted(folder.iterdir()):
        if LAYER.fullmatch(path.name) or RANK.fullmatch(path.name):
            try:
                TorchFile(path)
            except UserError as error:
                errors.append(str(error))
    return errors


def _from_tensors(facts: Facts, source: NeoxCheckpoint) -> None:
    facts.step = source.step
    world_sizes = [state.get("dp_world_size") for state in source.states]
    facts.parallel = {
        "tp": source.mp,
        "pp": source.pp,
        "dp": source.dp if any(type(n) is int for n in world_sizes) else None,
    }
    facts.generation = GENERATIONS[source.generation]
    versions = {v for s in source.states if isinstance(v := s.get("ds_version"), str)}
    facts.generation += "".join(f", DeepSpeed {version}" for version in sorted(versions))
    if source.yamls:
        facts.architecture = of_model(source.model)
    else:
        facts.architecture = _from_shapes(source)
        facts.notes.append(
            "no YAML here: heads, norms and activations are only known with --config X.yml"
        )
    for name, number in _parameters(source):
        facts.dtypes[name] = facts.dtypes.get(name, 0) + number
    facts.parameters = sum(facts.dtypes.values())


def _from_shapes(source: NeoxCheckpoint) -> Architecture:
    """Record the facts that need no YAML."""
    first = source.shards[EMBEDDING][0]["word_embeddings.weight"]
    heads = any("final_linear.weight" in ranks[0] for ranks in source.shards.values())
    return Architecture(
        layers=source.layers,
        hidden=first.shape[1],
        vocabulary=source.vocab_size,
        tied=not heads,
    )


def _parameters(source: NeoxCheckpoint) -> Iterator[tuple[str, int]]:
    """Yield (dtype, elements) of every saved weight, with copies counted once."""
    for index, ranks in source.shards.items():
        for name, tensor in ranks[0].items():
            if name in BUFFERS or (name == "attention.rpe.weight" and index != FIRST_BLOCK):
                continue
            shares = 1 if neox_drift.is_copy(name) else len(ranks)
            yield tensor.dtype.name, tensor.size * shares


def _measure(facts: Facts, source: NeoxCheckpoint | None) -> None:
    """Add up bytes by kind; an mp_rank file may hold weights, optimizer and the rest at once."""
    weights = optimizer = total = 0
    for path in facts.path.rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            total += size
            weights += size if LAYER.fullmatch(path.name) else 0
            optimizer += size if PARTITION.fullmatch(path.name) else 0
    if source is not None:
        weights = weights or source.nbytes
        optimizer += neox_optimizer.nbytes(source)
    rest = max(0, total - weights - optimizer)
    facts.bytes = {"weights": weights, "optimizer": optimizer, "rest": rest}


def _as_typed(
    path: Path, folder: Path, step: int | None, config: list[Path] | None
) -> tuple[str, str]:
    """Return the checkpoint and the options that it needs, as the commands name them."""
    given = f" --config {' '.join(quote(str(p)) for p in config)}" if config else ""
    return quote(str(path if step is None else folder)), given
