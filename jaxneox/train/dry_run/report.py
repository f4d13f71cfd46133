"""The part of `--dry-run` that needs no compiler: parameters, memory and every sharding."""

import math
from functools import partial

import jax
from jax.sharding import PartitionSpec as P

from jaxneox.config import describe
from jaxneox.console.columns import columns
from jaxneox.parallel.mesh import show, shown
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.state import dtype_of, param_specs, state_specs, with_params


def report(plan: TrainPlan) -> str:
    matrices = f"{plan.parameters:,} parameters on a mesh of {show(plan.sizes)}"
    if plan.trained_parameters < plan.parameters:
        matrices += f", of which {plan.trained_parameters:,} are trained"
    pipeline = [f"pipeline: {plan.schedule}"] if plan.schedule else []
    return "\n\n".join([describe(plan.cfg), matrices, *pipeline, memory(plan), table(plan)])


def memory(plan: TrainPlan) -> str:
    """Tabulate one device's bytes of what lives from step to step, and of gradients.

    Of a reference model it is what that has for itself.

    Activations and the compiler's temporaries come on top.
    """
    model, at = plan.model, param_specs(plan.model, plan.rules)
    abstract = {n: jax.ShapeDtypeStruct(s, dtype_of(plan, n)) for n, s in model.shapes.items()}
    state = jax.eval_shape(partial(with_params, plan), abstract)
    specs = state_specs(plan)
    rows = {
        "parameters": sum(_bytes(plan, state.params[n], at.params[n]) for n in abstract),
        "gradients": sum(_bytes(plan, abstract[n], at.gradients[n]) for n in plan.trained),
        "optimizer": sum(
            _bytes(plan, leaf, spec)
            for leaf, spec in zip(
                jax.tree.leaves(state.opt_state),
                jax.tree.leaves(specs.opt_state, is_leaf=lambda s: isinstance(s, P)),
                strict=True,
            )
        ),
    }
    if state.reference is not None:
        held = state.reference.items()
        rows["reference"] = sum(_bytes(plan, leaf, at.params[name]) for name, leaf in held)
    rows["together"] = sum(rows.values())
    lines = [f"  {name:<12}{size / 2**20:>14,.2f} MiB" for name, size in rows.items()]
    return "\n".join(["memory per device, without activations", *lines])


def table(plan: TrainPlan) -> str:
    """Tabulate every parameter: name, shape, logical axes, sharding at rest, bytes per device."""
    at, model = param_specs(plan.model, plan.rules).params, plan.model
    head = ("name", "shape", "axes", "sharding", "bytes per device")
    rows = [head]
    for name, shape in model.shapes.items():
        size = _bytes(plan, jax.ShapeDtypeStruct(shape, dtype_of(plan, name)), at[name])
        axes = ",".join(model.axes[name])
        rows.append((name, "x".join(map(str, shape)), axes, _spec(at[name]), f"{size:,}"))
    return "\n".join(columns(rows, left=len(head)))


def _bytes(plan: TrainPlan, leaf: jax.ShapeDtypeStruct, spec: P) -> int:
    parts = 1
    for entry in spec.partitions:
        for axis in (entry,) if isinstance(entry, str) else entry or ():
            parts *= plan.mesh_sizes[axis]
    return math.prod(leaf.shape) * leaf.dtype.itemsize // parts


def _spec(spec: P) -> str:
    each = [(e,) if isinstance(e, str) else e or () for e in spec.partitions]
    names = ["+".join(shown(e)) or "-" for e in each]
    return ",".join(names) if any(n != "-" for n in names) else "whole on every device"
