"""`python -m tests.bench.check`: what the bench runs on a GPU, compiled for one that is not here.

All of our programs of `tests.bench --gpu` are compiled for an H100, and a table of what will be
run is printed: the first minutes on a real device need not be spent on finding out what does not
compile or fit. It needs jax's plugin for CUDA, of the extra plan-gpu or cuda12, and takes a minute
or two. It ends with status 1 if a program does not compile, or would not fit.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

from jaxneox.errors import UserError
from jaxneox.plan.plugins import prepare
from jaxneox.plan.topology import Topology, parse_topology
from tests.bench.kinds import KINDS, PRODUCT, Kind
from tests.bench.sizes import Case

WHERE = "h100:1"
ROW = "| {:<58} | {:>12} | {:>11} | {:>12} | {:>10} | {:>9} |"


def main() -> None:
    topology = parse_topology(WHERE)
    try:
        prepare(topology)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"compiled for {WHERE}, a contender of ours each; theirs run beside them in turns\n")
    print(ROW.format("", "contenders", "compiled in", "memory, GiB", "TFLOP", "least, ms"))
    print(f"|{'---|' * 6}", flush=True)
    wrong = 0
    for kind, case in all_of():
        line, right = checked(kind, case, topology)
        print(line, flush=True)
        wrong += not right
    sys.exit(wrong > 0)


def all_of() -> Iterator[tuple[Kind, Case]]:
    """All that `tests.bench --gpu` runs, in the order of the kinds."""
    yield from ((PRODUCT, case) for case in PRODUCT.gpu)
    for kind in KINDS.values():
        yield from ((kind, case) for case in kind.gpu)


def checked(kind: Kind, case: Case, topology: Topology) -> tuple[str, bool]:
    """A row of the table, and whether the programs are right."""
    from jaxneox.hlo.work import Work, work

    name, many = kind.named(case), f"{len(kind.contenders)} x {kind.rounds}"
    if kind.host:
        return ROW.format(name, many, "on the CPU", "", "", ""), True
    begin = time.perf_counter()
    try:
        with topology.described():
            programs = compiled(kind, case, topology)
    except Exception as error:  # whatever stops it is what this is to find out
        last = str(error).strip().splitlines() or [type(error).__name__]
        return f"{ROW.format(name, many, 'FAILED', '', '', '')}\n{last[0]}", False
    seconds = f"{time.perf_counter() - begin:.0f} s"
    memory = max(map(needed, programs))
    total = Work(*map(sum, zip(*(work(one.as_text()) for one in programs), strict=True)))
    chip = topology.chip
    assert chip is not None
    least = max(total.flops / chip.flops, total.bytes / chip.bandwidth)
    fits = memory <= topology.usable
    size = f"{memory / 2**30:.2f}" + (" TOO MUCH" if not fits else "")
    cells = (seconds, size, f"{total.flops / 1e12:.3f}", f"{1e3 * least:.2f}")
    return ROW.format(name, many, *cells), fits


def needed(program: Any) -> int:
    stats = program.memory_analysis()
    own = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + own + stats.temp_size_in_bytes


def compiled(kind: Kind, case: Case, topology: Topology) -> list[Any]:
    """Our programs of a case: a step, a forward pass; prompts and one token more of each."""
    import jax
    import jax.numpy as jnp

    from jaxneox.loading.resting import abstract_params
    from jaxneox.parallel.mesh import make_mesh
    from jaxneox.train.dry_run.program import compile_step
    from tests.bench.ours.model import ONE, plan_of
    from tests.programs.pools import Form, compile_pool

    if kind is PRODUCT:
        mesh = make_mesh(ONE, topology.devices)
        sharding = jax.NamedSharding(mesh, jax.P())
        x = jax.ShapeDtypeStruct((case.length,) * 2, case.dtype, sharding=sharding)
        return [jax.jit(jnp.matmul).lower(x, x).compile()]
    plan = plan_of(case)
    if kind is KINDS["train"]:
        return [compile_step(plan, topology.devices).program]
    if kind is KINDS["decode"]:
        form = Form(case.batch, case.batch, case.length)
        prompts = compile_pool("prompts", plan.cfg, ONE, topology, form)
        last = form._replace(span=case.context)
        return [prompts, compile_pool("token", plan.cfg, ONE, topology, last)]
    assert kind is KINDS["forward"], kind
    mesh = make_mesh(ONE, topology.devices)
    params = abstract_params(plan.model, plan.rules, mesh)
    spec = plan.rules.activation("batch", None)
    sharding = jax.NamedSharding(mesh, spec)
    tokens = jax.ShapeDtypeStruct((case.batch, case.length), jnp.int32, sharding=sharding)
    with jax.set_mesh(mesh):
        return [jax.jit(plan.model.logits).lower(params, tokens).compile()]


if __name__ == "__main__":
    main()
