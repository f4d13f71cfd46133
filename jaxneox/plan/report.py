"""A plan in words: what fits, what is computed and sent, and how long it takes."""

import math

from jaxneox.console.columns import columns
from jaxneox.hlo.overlap import in_layers, share
from jaxneox.hlo.sent import NOTES, SIGNS, Row, together
from jaxneox.parallel.mesh import show, shown_axes
from jaxneox.plan.gpu_memory import FRACTION
from jaxneox.plan.planned import Planned

GIB = 2**30
LARGEST_SHARE = 0.95
"""Of a GPU's memory, what JAX can be told to take: CUDA's context and libraries need the rest."""

MEANS = {
    "parameters": "float32",
    "optimizer": "its state",
    "batch": "tokens and weights of a step",
    "gradients": "summed over the micro-batches, float32",
    "activations": "kept by the forward pass for the backward pass",
    "temporaries": "what else lives at the peak: gathered weights, scores, logits",
    "workspace": "of cuDNN's backward pass and cuBLAS, by formulas: the compiler has not asked",
}


def report(planned: Planned) -> str:
    parts = [head(planned), memory(planned), work(planned), sent(planned)]
    if planned.times is not None:
        parts.append(duration(planned))
    return "\n\n".join(parts)


def head(planned: Planned) -> str:
    plan, cfg = planned.plan, planned.plan.cfg
    parts = [show(plan.sizes), f"ZeRO {cfg.parallel.zero_stage}", f"remat {cfg.remat.policy}"]
    parts += ["sequence parallel"] * cfg.parallel.sequence_parallel
    batch, count = cfg.batch, planned.topology.count
    return (
        f"{plan.parameters:,} parameters on {planned.topology.name} "
        f"({count} device{'s' * (count > 1)}): {', '.join(parts)}\n"
        f"a step of {batch.global_size} x {cfg.model.seq_length} tokens in {batch.accumulation} "
        f"micro-batch{'es' * (batch.accumulation > 1)} of {batch.micro} a device, computed in "
        f"{cfg.precision.compute}; compiled in {planned.compiled.seconds:.0f} s"
    )


def memory(planned: Planned) -> str:
    topology = planned.topology
    verdict = f"{planned.needed / GIB:,.2f} GiB"
    if topology.chip is not None:
        verdict += f" of {topology.usable / GIB:,.1f}: "
        verdict += "fits" if planned.fits else "DOES NOT FIT"
    rows = [(name, size, MEANS[name]) for name, size in planned.parts.items()]
    lines = [f"  {name:<13}{size / GIB:>9,.3f} GiB  {means}" for name, size, means in rows]
    return "\n".join([f"memory of a device: {verdict}", *lines, *beside(planned)])


def beside(planned: Planned) -> list[str]:
    """Say what of a GPU's memory JAX takes beforehand, and what others take of the rest."""
    gpu, chip = planned.gpu, planned.topology.chip
    if gpu is None or chip is None:
        return []
    rest = chip.memory - gpu.taken
    number = gpu.communicators
    nccl = (
        f"NCCL takes at most {gpu.nccl / GIB:,.2f} for {number} group{'s' * (number > 1)} of "
        "devices by its defaults, and "
    )
    others = f"{nccl * (number > 0)}CUDA{' takes' * (number == 0)} what its context needs"
    lines = [
        f"  of a GPU's {chip.memory / GIB:,.1f} GiB JAX takes {gpu.taken / GIB:,.1f} beforehand "
        f"({FRACTION}, 0.75 unless it is set)",
        f"  of the other {rest / GIB:,.1f} {others}",
    ]
    if gpu.nccl > rest:
        lines.append(f"  these may not be enough: set {FRACTION} lower")
    share = planned.needed / chip.memory
    if not planned.fits and planned.needed + gpu.nccl < LARGEST_SHARE * chip.memory:
        lines.append(f"  it fits with {FRACTION}={math.ceil(100 * share) / 100:.2f}")
    return lines


def work(planned: Planned) -> str:
    model, program = planned.model_flops, planned.work.flops
    return "\n".join(
        [
            "work of a step on a device",
            f"  the model's mathematics   {model / 1e12:>12,.3f} TFLOP",
            f"  the compiled program      {program / 1e12:>12,.3f} TFLOP, "
            f"{program / model:.2f} x: what is computed again, and masked",
            f"  main memory               {planned.work.bytes / 1e9:>12,.3f} GB read and written",
        ]
    )


def sent(planned: Planned) -> str:
    if not planned.sent:
        return "sent between devices: nothing"
    timed = planned.topology.chip is not None
    heads = ["kind", "axes", *["through"] * timed, "a layer", "MiB a layer", "a step", "MiB a step"]
    table = [heads + ["ms at the links' rate", "exposed"] * timed]
    for row in together(planned.sent, shown_axes):
        parts = [r for r in planned.sent if (r.kind, shown_axes(r.axes)) == (row.kind, row.axes)]
        through = dict.fromkeys(planned.links.level(part) for part in parts if timed)
        cells = [row.kind, row.axes, *([" and ".join(through)] if timed else [])]
        cells += [str(row.in_layer), f"{row.layer_bytes / 2**20:,.3f}"]
        cells += [f"{SIGNS[row.length]}{row.count:,}", f"{row.bytes / 2**20:,.3f}"]
        if timed:
            milliseconds = sum(map(planned.links.seconds, parts)), exposed(planned, parts)
            cells += [f"{1e3 * each:,.2f}" for each in milliseconds]
        table.append(cells)
    notes = [NOTES[name] for name in NOTES if name in {row.length for row in planned.sent}]
    if timed:
        notes.append(overlap(planned))
    title = "sent between devices, payload of one; a layer forward and backward"
    return "\n".join(
        [title, *columns(table, left=2 + timed, indent="  "), *(f"  {note}" for note in notes)]
    )


def exposed(planned: Planned, rows: list[Row]) -> float:
    """Add up the seconds of these rows' collectives in which a device waits for them."""
    kinds = {(row.kind, row.axes) for row in rows}
    return sum(
        one.exposed * one.collective.count
        for one in planned.sendings
        if (one.collective.kind, planned.axes(one.collective)) in kinds
    )


def overlap(planned: Planned) -> str:
    """Say how many bytes of the layers are sent asynchronously, and how that is known."""
    found = share(in_layers(planned.sendings, planned.depth))
    apart, beside = (
        100 * part / max(1, found.bytes) for part in (found.asynchronous, found.beside_products)
    )
    return (
        f"of the layers' bytes {apart:.0f} % are sent asynchronously, {beside:.0f} % while "
        "products are computed; exposed is what the device waits for, in the program's order"
    )


def duration(planned: Planned) -> str:
    times, chip = planned.times, planned.topology.chip
    assert times is not None and chip is not None
    rows = [
        ("arithmetic", times.flops, f"at {chip.flops / 1e12:,.0f} TFLOP/s"),
        ("main memory", times.memory, f"at {chip.bandwidth / 1e9:,.0f} GB/s"),
        ("links", times.links, planned.links.rates),
        ("exposed", times.exposed, "of the links' time, in which nothing else is done"),
    ]
    lines = [f"  {name:<12}{1e3 * seconds:>10,.1f} ms  {at}" for name, seconds, at in rows]
    for words, seconds in (("all at once", times.least), ("in order", times.most)):
        lines.append(
            f"  {words:<12}{1e3 * seconds:>10,.1f} ms  MFU {100 * planned.mfu(seconds):.0f} %, "
            f"{planned.tokens / seconds:,.0f} tokens/s, {planned.days(seconds):,.1f} days for "
            f"{planned.plan.cfg.train.train_iters:,} steps"
        )
    return "\n".join(
        [f"time of a step at the peak rates of {chip.source}: no program reaches them", *lines]
    )
