"""Facts of a Hugging Face folder, from its config.json and the headers of its weights."""

from math import prod
from pathlib import Path

from convert.inspection import finite
from convert.inspection.architecture import of_model
from convert.inspection.facts import Facts
from convert.inspection.uses import after_conversion, refused, verified
from convert.readers.hf import HfCheckpoint
from convert.readers.hf_files import tensors, weight_files
from jaxneox.console.hints import command
from jaxneox.errors import UserError
from jaxneox.reading import read_object

WEIGHTS = (".safetensors", ".bin")


def inspect_hf(path: Path, *, numbers: bool = False) -> Facts:
    """Inspect a Hugging Face folder; `numbers` reads the weights however large they are."""
    facts = Facts(path, "huggingface", "unknown")
    facts.bytes = _sizes(path)
    source = None
    try:
        _describe(facts)
        source = HfCheckpoint(path)
    except UserError as error:
        facts.problems.append(str(error))
    why = next(iter(facts.problems), None)
    if source is not None:
        facts.architecture = of_model(source.model)
        facts.notes += source.warnings
        why = finite.note_not_finite(facts, finite.weights_of_hf(source), whatever_size=numbers)
    convert, what = command("convert", "from-hf", path, "DST"), "the weights, certified"
    if source is None or why is not None:
        facts.uses = [refused(convert, what, why or "")]
        return facts
    facts.uses = [
        finite.conversion_use(facts, convert, what),
        verified(str(path)),
        *after_conversion("from-hf", source.model, tokenizer=_has_tokenizer(source)),
    ]
    return facts


def _describe(facts: Facts) -> None:
    """Record the facts that hold for a model of any architecture."""
    path = facts.path
    config = read_object(path / "config.json")
    named = config.get("architectures") or config.get("model_type") or "an unnamed architecture"
    version = config.get("transformers_version")
    facts.generation = ", ".join(map(str, named)) if isinstance(named, list) else str(named)
    facts.generation += f" of transformers {version}" if version else ""
    files = weight_files(path)
    facts.layout = "safetensors" if files[0].suffix == ".safetensors" else "torch"
    for tensor in tensors(files).values():
        name = "another" if tensor.dtype is None else tensor.dtype.name
        facts.dtypes[name] = facts.dtypes.get(name, 0) + prod(tensor.shape)
    facts.parameters = sum(facts.dtypes.values())


def _has_tokenizer(source: HfCheckpoint) -> bool:
    """Tell whether the conversion will find a tokenizer of a known kind beside the model."""
    try:
        return source.tokenizer is not None
    except UserError:
        return False


def _sizes(path: Path) -> dict[str, int]:
    sizes = {child: child.stat().st_size for child in path.rglob("*") if child.is_file()}
    weights = sum(size for child, size in sizes.items() if child.suffix in WEIGHTS)
    return {"weights": weights, "optimizer": 0, "rest": sum(sizes.values()) - weights}
