"""Facts of a jaxneox checkpoint, from its metadata and the headers of its arrays."""

from math import prod
from pathlib import Path
from typing import Any

import tensorstore as ts

from convert.inspection import finite
from convert.inspection.architecture import of_model
from convert.inspection.facts import Facts, Optimizer, Use
from convert.inspection.uses import of_adapter, of_run, refused, verified
from convert.ours.next_command import go_on, train_on
from convert.readers.adapter import AdapterCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint
from jaxneox import checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Location
from jaxneox.errors import UserError

WEIGHTS_ALONE = "it holds weights alone: start from them with --finetune"


def inspect_jaxneox(path: Path, *, step: int | None = None, numbers: bool = False) -> Facts:
    """Inspect a jaxneox checkpoint; `numbers` reads the weights however large they are."""
    location = checkpoint.find(path, step)
    facts = Facts(location.folder, "jaxneox", "orbax", step=location.step)
    facts.steps = checkpoint.steps(location.run)
    facts.bytes = _sizes(location)
    named = str(path) if step is None else str(location.folder)
    source = None
    try:
        source = open_any(location)
        _describe(facts, source)
        facts.optimizer = _optimizer(location, source.keys)
    except UserError as error:
        facts.problems.append(str(error))
    why = next(iter(facts.problems), None)
    if source is not None and why is None:
        why = finite.note_not_finite(facts, finite.weights_of_ours(source), whatever_size=numbers)
    if source is None or why is not None:
        load = f"jaxneox.load({named!r})"
        facts.uses = [refused(load, "the model, in Python", why or "")]
        return facts
    facts.uses = _uses(facts, location, named, source)
    return facts


def open_any(location: Location) -> JaxneoxCheckpoint:
    """Open a whole model or an adapter."""
    meta = checkpoint.read_meta(location)
    is_adapter = META in meta or bool(meta["keys"].get("lora"))
    return (AdapterCheckpoint if is_adapter else JaxneoxCheckpoint)(location)


def _describe(facts: Facts, source: JaxneoxCheckpoint) -> None:
    facts.architecture = of_model(source.model)
    for name, shape in source.shapes.items():
        dtype = source.dtype(name).name
        facts.dtypes[dtype] = facts.dtypes.get(dtype, 0) + prod(shape)
    facts.parameters = sum(facts.dtypes.values())
    versions = checkpoint.read_meta(source.location).get("versions", {})
    programs = [f"{name} {version}" for name, version in versions.items()]
    origin = source.conversion.get("from")
    facts.generation = ", ".join([f"converted from {origin}"] * bool(origin) + programs) or None
    if isinstance(source, AdapterCheckpoint):
        facts.notes.append(adapter_note(source))
    if source.declared_model != source.model:
        facts.notes.append(
            f"{source.location.run / 'config.yml'} describes another model than this step was "
            "saved with; restore it, or train from this step alone"
        )


def adapter_note(source: AdapterCheckpoint) -> str:
    """Say what an adapter is, and beside which model it stands."""
    lora = source.lora
    if source.is_whole:
        return (
            f"LoRA's matrices of rank {lora.rank} and scale {lora.scale:.6g} stand beside "
            f"{', '.join(lora.targets)}"
        )
    return (
        f"an adapter of LoRA's matrices alone, of rank {lora.rank} and scale {lora.scale:.6g}, "
        f"beside {', '.join(lora.targets)} of the model {source.where}"
    )


def _optimizer(location: Location, keys: dict[str, Any]) -> Optimizer | None:
    """Describe the optimizer, or return None if the weights alone were saved."""
    folder = location.folder / "training"
    if not folder.is_dir():
        return None
    names = checkpoint.read_shapes(location, "training")
    block = keys.get("optimizer")
    kind = block.get("type") if isinstance(block, dict) else None
    moments = (name.partition(".mu.")[0] for name in names if ".mu." in name)
    counter = next((f"{m}.count" for m in moments if f"{m}.count" in names), None)
    updates = int(_scalar(folder, counter)) if counter else None
    if updates is None:
        updates = int(_scalar(folder, "step")) - int(_scalar(folder, "skipped"))
    scale = _scalar(folder, "scale.factor")
    return Optimizer(str(kind or "Adam"), updates=updates, loss_scale=None if scale == 1 else scale)


def _scalar(folder: Path, name: str) -> float:
    """Read one number of an item, in whichever layout Orbax stored it."""
    here = folder.resolve()
    store: dict[str, Any] = {"driver": "file", "path": f"{here}/{name}/"}
    if (folder / "manifest.ocdbt").is_file():
        store = {"driver": "ocdbt", "base": f"file://{here}/", "path": f"{name}/"}
    try:
        return ts.open({"driver": "zarr", "kvstore": store}).result().read().result().item()
    except Exception as error:  # TensorStore raises ValueError for every damage
        first = str(error).splitlines()[0]
        raise UserError(f"{folder}: {name} cannot be read ({first})") from error


def _uses(facts: Facts, location: Location, named: str, source: JaxneoxCheckpoint) -> list[Use]:
    goes_on = facts.optimizer is not None
    newest = location.step == facts.steps[-1]
    tokenizer = source.tokenizer is not None
    train = go_on(named, source.keys, tokenizer=tokenizer) + ("" if newest else " --save DIR")
    finetune = train_on(named, source.keys, tokenizer=tokenizer)
    training = [
        Use(train, "goes on with training", goes_on, None if goes_on else WEIGHTS_ALONE),
        Use(finetune, "trains further, from the weights"),
    ]
    if isinstance(source, AdapterCheckpoint):
        return [*training, *of_adapter(named, source.whole)]
    return [
        *training,
        *of_run(named, source.model),
        verified(str(location.folder)),
    ]


def _sizes(location: Location) -> dict[str, int]:
    totals = {"weights": 0, "optimizer": 0, "rest": 0}
    parts = {"params": "weights", "training": "optimizer"}
    for path in location.folder.rglob("*"):
        if path.is_file():
            part = path.relative_to(location.folder).parts[0]
            totals[parts.get(part, "rest")] += path.stat().st_size
    return totals
