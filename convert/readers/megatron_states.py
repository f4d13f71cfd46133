"""Finds Adam's states in Megatron-LM's two formats, by the names of the model's tensors.

`torch` without the distributed optimizer: states are numbered, first those of the group with weight
decay, then of the group without, each in the order of the module. With it: one `distrib_optim.pt`
for all data-parallel ranks, with a flat buffer for each virtual stage. `torch_dist`: states have
the parameters' names, or lie in flat buffers in buckets (`dp_reshardable`).
Measured on real files.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convert.megatron.consistency import share
from convert.readers.megatron_flat import FlatPart, parameter_offsets
from convert.readers.megatron_names import named
from convert.readers.megatron_shards import Order, Ranks, Shards, common_state
from convert.readers.torch_dist import DistFolder, DistTensor
from convert.readers.torch_file import TorchFile
from convert.rules.megatron import FC1, FC2, FINAL, HEAD, POSITIONS, PROJ, QKV, WORDS, rules
from convert.rules.rule import sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

KINDS = ("param", "exp_avg", "exp_avg_sq")
MASTERS = "fp32_param"
"""Another name of `param` in torch_dist: used by plain Adam in half precision, and by older
versions."""
DISTRIBUTED = "distrib_optim.pt"
NO_STATES = "there are none"

Layers = dict[int | None, Ranks]
Entry = tuple[str, int | None]

MODULES = {
    "local": ("input_layernorm", PROJ, QKV, "pre_mlp_layernorm", FC1, FC2),
    "transformer_engine": (PROJ, "input_layernorm", QKV, "pre_mlp_layernorm", FC1, FC2),
}
"""A layer's modules in order, by Megatron's implementation; torch_dist does not record which."""


class Scaler(NamedTuple):
    """The state of a dynamic loss scale.

    Attributes:
        scale: its value.
        growth: the steps since an overflow.
        hysteresis: the overflows still forgiven.
    """

    scale: float
    growth: int
    hysteresis: int


@dataclass
class States:
    """Adam's states by kind, in the structure of `Shards.layers`.

    Attributes:
        layers: by kind; `param` is absent if the weights are float32.
        schedule: Megatron's state of the learning rate schedule.
        scaler: the state of a dynamic loss scale, if there is one.
    """

    step: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    layers: dict[str, Layers] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: Scaler | None = None

    def put(self, kind: str, entry: Entry, rank: int, ranks: int, tensor: Any) -> None:
        name, layer = entry
        layers = self.layers.setdefault(kind, {})
        layers.setdefault(layer, [{} for _ in range(ranks)])[rank][name] = tensor


def legacy_states(shards: Shards) -> States:
    files = iter(file for file in shards.opened if isinstance(file, TorchFile))
    states = States()
    for p in range(shards.pp):
        for t in range(shards.tp):
            file = next(files)
            optimizer = file.content.get("optimizer")
            if not isinstance(optimizer, Mapping):
                raise UserError(NO_STATES)
            inner = optimizer.get("optimizer", optimizer)
            states.groups = [dict(group) for group in inner["param_groups"]]
            place = (_schedule(file.content), _scaler(optimizer))
            if p + t and place != (states.schedule, states.scaler):
                raise UserError("its files disagree on the schedule's position or the loss scale")
            states.schedule, states.scaler = place
            if inner.get("state"):
                _numbered(shards, p, t, optimizer, states)
            else:
                states.step = int(scalar(states.groups[0].get("step", 0)))
                _flat(shards, p, t, TorchFile(file.path.with_name(DISTRIBUTED)), states)
    return states


def _numbered(shards: Shards, p: int, t: int, optimizer: Mapping[str, Any], states: States) -> None:
    """Read numbered states; a half-precision model has lists of master weights by group as well."""
    inner = optimizer.get("optimizer", optimizer)
    masters = optimizer.get("fp32_from_fp16_params")
    order = [entry for v in range(shards.chunks) for entry in shards.order[p, v]]
    for number, group in enumerate(inner["param_groups"]):
        decayed = bool(group.get("wd_mult", 1.0))
        own = [entry for entry in order if _decays(shards, entry, t) == decayed]
        own = order if len(inner["param_groups"]) == 1 else own
        if len(own) != len(group["params"]):
            raise UserError(
                f"group {number} has {len(group['params'])} parameters, the model {len(own)} with "
                f"{'' if decayed else 'no '}weight decay"
            )
        for at, (entry, index) in enumerate(zip(own, group["params"], strict=True)):
            state = inner["state"][index]
            for kind in KINDS[1:]:
                states.put(kind, entry, t, shards.tp, state[kind])
            if masters is not None:
                states.put("param", entry, t, shards.tp, masters[number][at])
            states.step = max(states.step, int(scalar(state.get("step", group.get("step", 0)))))


def _decays(shards: Shards, entry: Entry, rank: int) -> bool:
    """Tell which parameters have weight decay: matrices do, and biases do not."""
    name, layer = entry
    return len(shards.layers[layer][rank][name].shape) > 1 and not name.endswith(".bias")


def _flat(shards: Shards, p: int, t: int, file: TorchFile, states: States) -> None:
    for v in range(shards.chunks):
        by_type = file.content.get(v) or {}
        if len(by_type) != 1:
            raise UserError(f"{file.path.name}: chunk {v} has buffers of {len(by_type)} types")
        (buffer,) = by_type.values()
        order = shards.order[p, v]
        shapes = [shards.layers[layer][t][name].shape for name, layer in order]
        starts = parameter_offsets(shapes, [buffer["param"].size])
        for entry, shape, (_, start) in zip(order, shapes, starts, strict=True):
            for kind in KINDS:
                states.put(kind, entry, t, shards.tp, FlatPart(buffer[kind], start, shape))


def dist_states(shards: Shards, model: ModelConfig, fits: Callable[[States], bool]) -> States:
    """Read the states of torch_dist. `fits` tells whether an order of them is the right one."""
    folder = DistFolder(shards.files.folder)
    states = _settings(folder)
    for name, tensor in folder.tensors.items():
        kind, _, key = name.removeprefix("optimizer.state.").partition(".")
        kind = "param" if kind == MASTERS else kind
        if name.startswith("optimizer.state.") and kind in KINDS:
            for entry, part in _parts(key, tensor):
                states.put(kind, entry, 0, 1, part)
    if states.layers:
        return states
    if not any(name.startswith("optimizer.distributed.") for name in folder.tensors):
        raise UserError(NO_STATES)
    for modules in MODULES.values():
        states.layers = {}
        _from_buckets(shards, model, folder, modules, states)
        if fits(states):
            break
    return states


def _parts(key: str, tensor: DistTensor) -> Iterator[tuple[Entry, DistTensor]]:
    """Split a tensor of all layers into one for each."""
    name, layer, inside = named(key)
    if not inside or layer is not None:
        yield (name, layer), tensor
        return
    for index in range(tensor.shape[0]):
        yield (name, index), tensor.part(index)


def _settings(folder: DistFolder) -> States:
    """Read all but the tensors: the common state, and objects beside it (`dp_reshardable`)."""
    common, _ = common_state(folder)
    optimizer = dict(common.get("optimizer") or {})
    for name, place in folder.objects.items():
        key = name.removeprefix("optimizer.distributed.dp_group_idx_0.").partition("/")[0]
        if key in ("optimizer", "grad_scaler") and key != name.partition("/")[0]:
            content = place.open().content
            optimizer[key] = content[0] if isinstance(content, list) and content else content
    inner = optimizer.get("optimizer", optimizer)
    if "param_groups" not in inner:
        raise UserError(NO_STATES)
    groups = [dict(group) for group in inner["param_groups"]]
    step = inner.get("state", {}).get("common_step", groups[0].get("step", 0))
    return States(int(scalar(step)), groups, {}, _schedule(common), _scaler(optimizer))


def _schedule(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schedule's state, which was named `lr_scheduler` until 2022."""
    return dict(state.get("opt_param_scheduler") or state.get("lr_scheduler") or {})


def _scaler(optimizer: Mapping[str, Any]) -> Scaler | None:
    """Return the dynamic loss scale, or None for a constant scale, which has no state."""
    scaler = optimizer.get("grad_scaler")
    if not scaler:
        return None
    scale, growth, hysteresis = (
        scalar(scaler[name]) for name in ("scale", "growth_tracker", "hysteresis_tracker")
    )
    if not (0 < scale < 2.0**128 and 0 <= growth < 2**31 and abs(hysteresis) < 2**31):
        raise UserError(f"its loss scale is {scale:g}, trackers {growth:g} and {hysteresis:g}")
    return Scaler(scale, int(growth), int(hysteresis))


def _from_buckets(
    shards: Shards, model: ModelConfig, folder: DistFolder, modules: tuple[str, ...], states: States
) -> None:
    """Read the buckets of every model-parallel rank, which is number stage * tp + tensor rank."""
    kinds = ("tensor", "pipeline", "virtual_pipeline")
    tp, pp, chunks = (shards.args.get(f"{kind}_model_parallel_size") or 1 for kind in kinds)
    shapes = _shapes(model, tp)
    for p, t, v in ((p, t, v) for p in range(pp) for t in range(tp) for v in range(chunks)):
        order = _order(model, shapes, modules, (p, v), (pp, chunks))
        buckets = {kind: _buckets(folder, p * tp + t, v, kind) for kind in KINDS}
        own = [shapes[name] for name, _ in order]
        starts = parameter_offsets(own, [bucket.size for bucket in buckets["param"]])
        for entry, shape, (bucket, start) in zip(order, own, starts, strict=True):
            if entry == (HEAD, None) and model.tied_embedding:
                continue  # the last stage's copy
            for kind in KINDS:
                states.put(kind, entry, t, tp, FlatPart(buckets[kind][bucket], start, shape))


def _shapes(model: ModelConfig, tp: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a rank's tensors, including those of a tied embedding's copy."""
    sizes, shapes = sizes_of(model), {}
    for inside in (False, True):
        for rule in rules(model, inside=inside):
            shape = share(rule, rule.shape(sizes), tp)
            if shape is None:
                raise UserError(f"{rule.theirs} does not divide over {tp} ranks")
            shapes[rule.theirs] = shape
    return {HEAD: shapes[WORDS]} | shapes


def _order(
    model: ModelConfig,
    shapes: Mapping[str, Any],
    modules: tuple[str, ...],
    at: tuple[int, int],
    of: tuple[int, int],
) -> Order:
    """Return the parameters of a virtual stage in the order of its module."""
    (p, v), (pp, chunks) = at, of
    each, chunk = model.num_layers // (pp * chunks), v * pp + p
    order: Order = []
    if chunk == 0:
        order += [(name, None) for name in (WORDS, POSITIONS) if name in shapes]
    for layer in range(chunk * each, (chunk + 1) * each):
        for name in (f"{module}.{kind}" for module in modules for kind in ("weight", "bias")):
            order += [(name, layer)] if name in shapes else []
    if chunk == pp * chunks - 1:
        names = (f"{FINAL}.weight", f"{FINAL}.bias", HEAD)
        own_head = not model.tied_embedding or pp > 1
        order += [(n, None) for n in names if n in shapes and (n != HEAD or own_head)]
    return order


def _buckets(folder: DistFolder, rank: int, chunk: int, kind: str) -> list[DistTensor]:
    prefix = f"optimizer.distributed.dp_group_idx_{rank}.gbuf_idx_{chunk}.dtype_"
    buckets = {
        int(name.rpartition("bucket_idx_")[2].partition(".")[0]): tensor
        for name, tensor in folder.tensors.items()
        if name.startswith(prefix) and name.endswith(f".{kind}")
    }
    if not buckets:
        raise UserError(f"{prefix}….{kind} is missing")
    return [buckets[index] for index in sorted(buckets)]


def scalar(value: Any) -> float:
    return float(value.numpy().item() if hasattr(value, "numpy") else value)
