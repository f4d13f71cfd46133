"""The files of muP's base shapes, as the library mup writes them and NeoX reads them.

A file is YAML: the name of each of NeoX's tensors, and a number for each of its dimensions, which
is the size in the base model, or null for a dimension that is the same in models of every width.
Each rank has a file of its own, PATH.0 and so on, with the shapes of its part of the tensors.
Sources: mup `shape.py` (save_base_shapes), gpt-neox `megatron/training.py` (get_model).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxneox.config.schema import ModelConfig
from jaxneox.config.strict_yaml import BrokenYaml, parse
from jaxneox.errors import UserError, listed
from jaxneox.reading import read_text

Shape = tuple[int, ...]
BaseShape = list[int | None]

HEAD = """\
# This is a base shape file encoded in yaml
# - `null` indicates a dimension is "finite", i.e. a non-"width" dimension
# - a number indicates the base dimension of an "infinite" dimension, i.e. some notion of "width"
"""
TIED = "tied_modules.embed."
"""What stands before a tied embedding's name in NeoX's pipeline."""


class WidthSizes(NamedTuple):
    """The widths of a model: its hidden size, all heads together, and a branch of the MLP."""

    hidden: int
    attention: int
    mlp: int


def sizes_of(model: ModelConfig) -> WidthSizes:
    heads = model.attention.num_heads * model.attention.head_dim
    return WidthSizes(model.hidden_size, heads, model.mlp.size)


def read_base_shapes(path: Path, model: ModelConfig) -> tuple[int, int | None, int | None]:
    """Read the widths of the base; a width is None if it is the same in models of every width.

    Args:
        path: as `base_shapes_file` has it, with or without the rank at its end.
        model: the model that is trained.

    Returns:
        The hidden size, the size of all heads together, and that of a branch of the MLP.

    Raises:
        UserError: the file is missing, is no file of base shapes, or is another model's.
    """
    shapes = _merged(path)
    own = tensors(model, sizes_of(model))
    if shapes.keys() != own.keys():
        odd = sorted(shapes.keys() ^ own.keys())
        raise _of_another(path, f"only one of both has {listed(odd)}")
    for name, shape in own.items():
        if len(shapes[name]) != len(shape):
            raise _of_another(path, f"{name} has {len(shapes[name])} dimensions, not {len(shape)}")
    layer = {name.removeprefix("2."): shape for name, shape in shapes.items()}
    hidden = shapes["0.word_embeddings.weight"][1]
    part, mlp = layer["attention.dense.weight"][1], layer["mlp.linear2.weight"][1]
    if hidden is None:
        raise UserError(
            f"base_shapes_file {path}: the embedding has no width, so that nothing in it grows; "
            "write it again with save_base_shapes"
        )
    # NeoX's heads together are as wide as the hidden size: the rest is what other ranks have
    ranks = max(1, hidden // part) if part else 1
    sizes = hidden, part and part * ranks, mlp and mlp * ranks
    _check(path, model, shapes, sizes, ranks)
    return sizes


def write_base_shapes(
    path: Path, base: ModelConfig, wider: ModelConfig, *, ranks: int, pipeline: bool
) -> list[Path]:
    """Write the base shapes of a model, for runs of wider ones.

    Args:
        path: as `base_shapes_file` names it; each rank's number is added.
        base: the model whose sizes are written.
        wider: the same keys at another width, by which the dimensions that grow are told.
        ranks: NeoX's model parallel size.
        pipeline: whether NeoX trains with its pipeline engine, which has other names.

    Returns:
        The files that were written, all with the same content.
    """
    first, second = (tensors(model, sizes_of(model), ranks) for model in (base, wider))
    lines = [HEAD]
    for name, shape in first.items():
        sizes = zip(shape, second[name], strict=True)
        entries = "".join(f"- {'null' if a == b else a}\n" for a, b in sizes)
        tied = pipeline and base.tied_embedding and name.startswith("0.word")
        theirs = name.replace("0.", TIED, 1) if tied else name
        lines.append(f"{'' if pipeline else 'sequential.'}{theirs}:\n{entries}")
    files = [path.with_name(f"{path.name}.{rank}") for rank in range(ranks)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.write_text("".join(lines))
    return files


def tensors(model: ModelConfig, sizes: WidthSizes, ranks: int = 1) -> dict[str, Shape]:
    """Return the shapes of NeoX's tensors on one of its ranks, by their numbers in the Sequential.

    Args:
        model: which tensors there are.
        sizes: the widths, in place of the model's own.
        ranks: the model parallel size.
    """
    (D, A, F), L, V = sizes, model.num_layers, model.vocab_size // ranks
    shapes: dict[str, Shape] = {"0.word_embeddings.weight": (V, D)}
    if model.positions.kind == "learned":
        shapes["0.position_embeddings.weight"] = (model.positions.max_positions, D)
    layer = _layer(model, D, A // ranks, F // ranks)
    for index in range(2, L + 2):
        shapes |= {f"{index}.{name}": shape for name, shape in layer.items()}
    shapes |= _norm(f"{L + 3}.norm", model, (D,))
    if model.head == "reward":
        shapes[f"{L + 4}.rm_linear.weight"] = (1, D // ranks)
    elif not model.tied_embedding:
        shapes[f"{L + 4}.final_linear.weight"] = (V, D)
    return shapes


def _layer(model: ModelConfig, D: int, A: int, F: int) -> dict[str, Shape]:
    a, mlp = model.attention, model.mlp
    qkv, inner = A * (a.group + 2) // a.group, F * (2 if mlp.gated else 1)
    shapes = _norm("input_layernorm", model, (D,))
    if not model.shared_norm:
        shapes |= _norm("post_attention_layernorm", model, (D,))
    if a.qk_norm:
        shapes |= _norm("attention.qk_layernorm", model, (A // a.head_dim, a.head_dim))
    shapes |= _linear("attention.query_key_value", (qkv, D), a.bias)
    shapes |= _linear("attention.dense", (D, A), a.biased_output)
    shapes |= _linear("mlp.linear1", (inner, D), mlp.bias)
    return shapes | _linear("mlp.linear2", (D, F), mlp.bias)


def _linear(name: str, shape: Shape, bias: bool) -> dict[str, Shape]:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def _norm(name: str, model: ModelConfig, shape: Shape) -> dict[str, Shape]:
    match model.norm.kind:
        case "rmsnorm":
            return {f"{name}.scale": shape}
        case "scalenorm":
            return {f"{name}.g": (1,)}
        case "layernorm":
            leaves = ("weight", "bias") if model.norm.bias else ("weight",)
            return {f"{name}.{leaf}": shape for leaf in leaves}
        case "non_parametric_layernorm":
            return {}


def _merged(path: Path) -> dict[str, BaseShape]:
    """Read the files of all ranks; in a pipeline each has the layers of its stage."""
    numbered = sorted(path.parent.glob(f"{path.name}.*"))
    files = [path] if path.is_file() else [f for f in numbered if f.suffix[1:].isdecimal()]
    if not files:
        raise UserError(
            f"base_shapes_file {path}: there is neither such a file nor {path.name}.0; write it "
            "at the base's width with save_base_shapes, or set mup_base_hidden_size instead"
        )
    shapes: dict[str, BaseShape] = {}
    for file in files:
        shapes |= _read(file)
    return shapes


def _read(file: Path) -> dict[str, BaseShape]:
    try:
        content: Any = parse(read_text(file))[0]
    except BrokenYaml as error:
        raise UserError(f"{file}: line {error.line}: {error}") from error
    if not isinstance(content, Mapping) or not all(map(_is_shape, content.values())):
        raise UserError(
            f"{file}: expected mup's base shapes, a list of sizes or null for each tensor's name"
        )
    return {_in_sequential(str(name)): list(shape) for name, shape in content.items()}


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(x is None or (type(x) is int and x > 0) for x in value)


def _in_sequential(name: str) -> str:
    """Return a tensor's name with its number in the Sequential first, where the embedding is 0."""
    return name.removeprefix("sequential.").replace(TIED, "0.")


def _check(
    path: Path,
    model: ModelConfig,
    shapes: Mapping[str, BaseShape],
    sizes: tuple[int, int | None, int | None],
    ranks: int,
) -> None:
    """Hold every number of a file against the widths that were read from it."""
    own = sizes_of(model)
    base = WidthSizes(sizes[0], sizes[1] or own.attention, sizes[2] or own.mlp)
    for name, shape in tensors(model, base, ranks).items():
        known = zip(shapes[name], shape, strict=True)
        if "qk_layernorm" not in name and any(x not in (None, y) for x, y in known):
            raise _of_another(path, f"{name} is {shapes[name]}, expected {list(shape)} or null")


def _of_another(path: Path, why: str) -> UserError:
    return UserError(
        f"base_shapes_file {path}: is not of this model at another width: {why}; write it with "
        "save_base_shapes from the same keys"
    )
