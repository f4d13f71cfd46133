"""Facts of a Megatron-LM checkpoint, in either of its formats."""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from convert.inspection import finite, megatron_model
from convert.inspection.facts import Facts, Optimizer, Use
from convert.inspection.megatron_files import (
    ITERATION,
    MODEL,
    PARTS,
    RANK,
    DistIndex,
    TensorHeader,
    nbytes,
    read_index,
    read_torch,
    state_of,
    step_folder,
    tensors_of,
)
from convert.inspection.megatron_model import RankTensors
from convert.inspection.uses import after_conversion, refused
from convert.ours.next_command import go_on
from convert.readers.megatron import MegatronCheckpoint, open_megatron
from convert.readers.neox_files import MOST_RANKS
from convert.rules.megatron import WORDS
from jaxneox.console.hints import command
from jaxneox.errors import UserError, listed
from jaxneox.reading import refuse_special

OPTIMIZER_FILES = ("distrib_optim.pt", "optim.pt")


def inspect_megatron(path: Path, *, step: int | None = None, numbers: bool = False) -> Facts:
    """Inspect a Megatron-LM checkpoint; `numbers` reads the weights however large they are."""
    folder, steps = step_folder(path, step)
    distributed = (folder / ".metadata").exists() or any(map(_is_part, folder.iterdir()))
    facts = Facts(folder, "megatron", "torch_dist" if distributed else "torch", steps=steps)
    number = ITERATION.fullmatch(folder.resolve().name)
    facts.step = int(number[1]) if number else None
    source: MegatronCheckpoint | None = None
    try:
        if distributed:
            _from_index(facts, read_index(folder))
        else:
            _from_ranks(facts)
        source = None if facts.problems else _held_together(facts)
    except UserError as error:
        facts.problems.append(str(error))
    _measure(facts)
    why = next(iter(facts.problems), None)
    if source is not None:
        why = finite.note_not_finite(
            facts, finite.weights_of_megatron(source), whatever_size=numbers
        )
    convert = command("convert", "from-megatron", path if step is None else folder, "DST")
    weights = "the weights, certified"
    if source is None or why is not None:
        facts.uses = [refused(convert, weights, why or "")]
        return facts
    facts.uses = [finite.conversion_use(facts, convert, weights), *_going_on(facts, convert)]
    facts.uses += after_conversion("from-megatron", source.model)
    return facts


def _held_together(facts: Facts) -> MegatronCheckpoint:
    """Open the checkpoint as the conversion would.

    Raises:
        UserError: it is refused, because we do not have its function, or its tensors are not
            those of one model.
    """
    source = open_megatron(facts.path)
    facts.notes += source.notes
    tied, architecture = source.model.tied_embedding, facts.architecture
    if architecture is not None and architecture.tied != tied:  # arguments lie, or say nothing
        facts.architecture = replace(architecture, tied=tied)
        tensor = source.shards.layers[None][0][WORDS]
        elements = source.model.vocab_size * source.model.hidden_size * (-1 if tied else 1)
        facts.dtypes[tensor.dtype.name] = facts.dtypes.get(tensor.dtype.name, 0) + elements
        facts.parameters = sum(facts.dtypes.values())
    return source


def _going_on(facts: Facts, convert: str) -> list[Use]:
    """List what can be done with the optimizer, if there is one."""
    if facts.optimizer is None:
        return []
    with_it = "from-megatron --optimizer"
    return [
        finite.conversion_use(
            facts, f"{convert} --optimizer", "with the optimizer: the run goes on"
        ),
        Use(go_on("DST", {}), "goes on with training", after=with_it),
    ]


def _from_ranks(facts: Facts) -> None:
    """Inspect the format `torch`: every rank's file is opened, but no tensor is read."""
    states: dict[tuple[int, int], Mapping[str, Any]] = {}
    for child in sorted(facts.path.iterdir()):
        files = [c for c in child.iterdir() if MODEL.fullmatch(c.name)] if child.is_dir() else []
        if files and (m := RANK.fullmatch(child.name)):
            states[int(m[1]), int(m[2] or 0)] = _rank_state(facts, files[0])
    if not states:
        raise UserError(
            f"{facts.path}: has no mp_rank_TT[_PPP]/model_optim_rng.pt; copy the whole checkpoint"
        )
    args = next((a for state in states.values() if (a := state_of(state.get("args")))), {})
    tp = max(1 + max(t for t, _ in states), _size(args, "tensor_model_parallel_size"))
    pp = max(1 + max(p for _, p in states), _size(args, "pipeline_model_parallel_size"))
    facts.parallel = {"tp": tp, "pp": pp, "dp": _size(args, "data_parallel_size") or None}
    if tp * pp > MOST_RANKS:
        raise UserError(f"{facts.path}: {tp * pp} ranks; at most {MOST_RANKS} are expected")
    absent = [(t, p) for p in range(pp) for t in range(tp) if (t, p) not in states]
    if absent:
        names = [f"mp_rank_{t:02d}" + (f"_{p:03d}" if pp > 1 else "") for t, p in absent]
        facts.problems.append(f"{facts.path}: missing {listed(names)}; copy the whole checkpoint")
    if facts.problems:
        return
    models = {where: _model(state) for where, state in states.items()}
    first = next(iter(states.values()))
    chunks = sum(re.fullmatch(r"model\d+", str(name)) is not None for name in first)
    if chunks:
        facts.parallel["vpp"] = chunks  # virtual stages of each rank
    _say_version(facts, first, nested=any("language_model." in n for n in models[0, 0]))
    _describe(facts, RankTensors.of_files(models, tp), args)
    facts.optimizer = _optimizer(first, args, facts.path)
    facts.bytes["weights"] = nbytes(t for model in models.values() for t in model.values())
    optimizers = [dict(tensors_of(state.get("optimizer") or {})) for state in states.values()]
    facts.bytes["optimizer"] = nbytes(t for own in optimizers for t in own.values()) + sum(
        path.stat().st_size for path in _apart(facts.path)
    )


def _rank_state(facts: Facts, path: Path) -> Mapping[str, Any]:
    try:
        refuse_special(path)
        with path.open("rb") as file:
            content = read_torch(file, path)
    except UserError as error:
        facts.problems.append(str(error))
        return {}
    return content if isinstance(content, Mapping) else {}


def _model(state: Mapping[str, Any]) -> dict[str, TensorHeader]:
    """Return a rank's tensors; those of virtual stages begin with `model0.` and so on."""
    chunks = {
        k: v for k, v in state.items() if str(k).startswith("model") and isinstance(v, Mapping)
    }
    if set(chunks) == {"model"}:
        return dict(tensors_of(chunks["model"]))
    return dict(tensors_of(chunks))


def _from_index(facts: Facts, index: DistIndex) -> None:
    """Inspect the format `torch_dist`."""
    args = state_of(index.common.get("args"))
    facts.parallel = {
        "tp": _size(args, "tensor_model_parallel_size") or None,
        "pp": _size(args, "pipeline_model_parallel_size") or None,
        "dp": _size(args, "data_parallel_size") or None,
    }
    for name, length in sorted(index.lengths.items()):
        path = facts.path / name
        there = path.stat().st_size if PARTS.fullmatch(name) and path.is_file() else None
        if there is None:
            facts.problems.append(f"{facts.path}: missing {name}; copy the whole checkpoint")
        elif there < length:
            facts.problems.append(
                f"{path}: has {there} bytes, expected {length}; copy it again from its source"
            )
    _say_version(facts, index.common, nested=False)
    own = {n: t for n, t in index.tensors.items() if not n.startswith(("optimizer.", "rng_state"))}
    if any("word_embeddings.weight" in name for name in own):
        _describe(facts, RankTensors.of_wholes(own), args)
    else:
        facts.problems.append(f"{facts.path}: holds no language model (no word_embeddings.weight)")
    facts.optimizer = _sharded_optimizer(index, args)
    facts.bytes["weights"] = nbytes(own.values())
    facts.bytes["optimizer"] = nbytes(
        t for name, t in index.tensors.items() if name.startswith("optimizer.")
    )


def _describe(facts: Facts, ranks: RankTensors, args: Mapping[str, Any]) -> None:
    facts.architecture = megatron_model.architecture(ranks, args)
    if facts.architecture.tied:  # the last stage's copy is no parameter
        ranks = ranks.without_tied_copy()
    for tensor in ranks.wholes.values():
        facts.dtypes[tensor.dtype] = facts.dtypes.get(tensor.dtype, 0) + prod(tensor.shape)
    facts.parameters = sum(facts.dtypes.values())


def _say_version(facts: Facts, state: Mapping[str, Any], nested: bool) -> None:
    version = state.get("checkpoint_version", 0)
    names = "names of before Megatron core (nested)" if nested else "names of Megatron core"
    facts.generation = f"checkpoint version {version}, {names}"
    if facts.step is None and type(state.get("iteration")) is int:
        facts.step = state["iteration"]


def _optimizer(state: Mapping[str, Any], args: Mapping[str, Any], folder: Path) -> Optimizer | None:
    """Describe the optimizer of the format `torch`: each rank's own Adam, or flat arrays."""
    saved = state.get("optimizer")
    apart = bool(_apart(folder))
    if not isinstance(saved, Mapping) and not apart:
        return None
    own = dict(tensors_of(saved)) if isinstance(saved, Mapping) else {}
    master = apart or any("fp32_from_fp16" in name for name in own)
    return Optimizer(
        _named(args),
        partitions=_size(args, "data_parallel_size") or None if apart else 0,
        updates=_updates(saved),
        master_weights="float32" if master else None,
        loss_scale=_loss_scale(saved),
        layout="distributed optimizer, flat arrays" if apart else "whole on each rank",
    )


def _sharded_optimizer(index: DistIndex, args: Mapping[str, Any]) -> Optimizer | None:
    names = [name for name in index.tensors if name.startswith("optimizer.")]
    if not names:
        return None
    state = index.common.get("optimizer")
    kind = state.get("param_state_sharding_type") if isinstance(state, Mapping) else None
    flat = any(".gbuf_idx_" in name for name in names)
    layout = f"distributed optimizer, {kind or ('flat buckets' if flat else 'by parameter')}"
    distributed = bool(kind or flat)
    return Optimizer(
        _named(args),
        partitions=_size(args, "data_parallel_size") or None if distributed else 0,
        updates=_updates(state),
        master_weights="float32" if any(map(_is_master, names)) else None,
        loss_scale=_loss_scale(state),
        layout=layout if distributed else "by parameter",
    )  # fmt: skip


def _is_master(name: str) -> bool:
    return name.endswith(".param") or name.startswith(("optimizer.state.param.",
                                                       "optimizer.state.fp32_param."))  # fmt: skip


def _named(args: Mapping[str, Any]) -> str:
    return str(args.get("optimizer") or "adam").capitalize()


def _updates(state: Any) -> int | None:
    """Return the largest `step` anywhere in torch's state."""
    waiting, values = [state], []
    while waiting:
        at = waiting.pop()
        for name, value in at.items() if isinstance(at, Mapping) else ():
            if name in ("step", "common_step"):
                values.append(getattr(value, "value", value))
            waiting.append(value)
        waiting.extend(at if type(at) is list else ())
    counts = [int(n) for n in values if isinstance(n, int | float)]
    return max(counts, default=None)


def _apart(folder: Path) -> list[Path]:
    """List the distributed optimizer's files, one for each tensor and pipeline rank."""
    return [path for path in folder.glob("mp_rank_*/*.pt") if path.name in OPTIMIZER_FILES]


def _loss_scale(state: Any) -> float | None:
    scaler = state.get("grad_scaler") if isinstance(state, Mapping) else None
    scale = scaler.get("scale") if isinstance(scaler, Mapping) else None
    return getattr(scale, "value", None)


def _size(args: Mapping[str, Any], name: str) -> int:
    value = args.get(name)
    return value if type(value) is int and 0 < value < 65536 else 0


def _is_part(path: Path) -> bool:
    return PARTS.fullmatch(path.name) is not None


def _measure(facts: Facts) -> None:
    """Measure the files, which hold weights and states together, by their tensors."""
    total = sum(p.stat().st_size for p in facts.path.rglob("*") if p.is_file())
    facts.bytes["rest"] = max(0, total - sum(facts.bytes.values()))
