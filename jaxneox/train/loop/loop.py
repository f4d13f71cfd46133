"""The loop around the compiled step: batches in, figures and checkpoints out."""

import threading
import time
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import jax

from jaxneox.console import garbage
from jaxneox.console.waiting import waiting
from jaxneox.data import EndOfBatches, prefetch
from jaxneox.hosts import messages
from jaxneox.hosts.stopping import SharedStop, interruptions
from jaxneox.hosts.watch import mark
from jaxneox.objectives import WEIGHTS, Batch, PreparedObjective
from jaxneox.train.checkpoints.saving import Saving
from jaxneox.train.loop.evaluations import Evaluations
from jaxneox.train.loop.profile import Trace
from jaxneox.train.reporting.metrics import open_sinks
from jaxneox.train.reporting.progress import Bar, Rate
from jaxneox.train.reporting.reporter import Reporter
from jaxneox.train.run import Run
from jaxneox.train.step.feed import Feed
from jaxneox.train.step.flops import flops_per_token, forward_flops_per_token
from jaxneox.train.step.state import TrainState
from jaxneox.train.step.step import Metrics, build_step


def train(run: Run) -> bool:
    """Run to the end, or until it is interrupted; save either way.

    Returns:
        Whether the run came to its end.
    """
    cfg = run.cfg
    run.write_config()
    with ExitStack() as stack:
        sinks = (*run.sinks, *open_sinks(cfg.log, cfg.keys, run.folder, run.step))
        for sink in sinks:
            stack.enter_context(closing(sink))
        bar = Bar(run.step, run.last, cfg.log, rate(run), run.plan.objective, run.quiet)
        stack.enter_context(closing(bar))
        interrupted = stack.enter_context(interruptions())
        reporter = Reporter(run, sinks, bar, interrupted.set)
        saving = stack.enter_context(closing(Saving(run, reporter)))
        stack.enter_context(jax.set_mesh(run.mesh))
        steps(run, reporter, saving, interrupted)
        with waiting("writing the checkpoint", bar.say):
            saving.wait()
    return run.step >= run.last


def steps(run: Run, reporter: Reporter, saving: Saving, interrupted: threading.Event) -> None:
    """Run steps until the end or an interruption; save and evaluate when it is due."""
    cfg, plan, bar = run.cfg, run.plan, reporter.bar
    step = build_step(plan, run.mesh)
    evaluations = Evaluations(run, reporter)
    feed = Feed(run.loader, cfg.batch, run.mesh, plan.rules, run.first, plan.curriculum)
    run_step = CompiledTogether(step) if messages.count() > 1 else step
    stop = SharedStop(run.mesh, interrupted)
    begun = done = run.step
    saving.before_the_first()
    evaluations.before_the_first(done)
    with closing(Trace(cfg.log, run.folder)) as trace, closing(prefetch(feed, done)) as batches:
        while done < run.last and not stop():
            early = done <= begun + 1 or run.grows_at(done)  # compiling
            mark(f"waiting for the batch of step {done + 1}", early)
            since = time.perf_counter()
            try:
                _, batch = next(batches)
            except EndOfBatches:
                reporter.flush()
                bar.say(f"the data has ended: {done} of {run.last} steps are done")
                break
            except Exception:  # of the data; what was learned until here is not lost for it
                if messages.count() == 1:  # the others are already inside the step
                    conclude(reporter, saving, done)
                raise
            waited = time.perf_counter() - since
            mark(f"in step {done + 1}", early)
            if trace.begins_at(done + 1):
                with reporter.aside():
                    trace.start()
            with waiting("compiling the step", bar.say) if early else nullcontext():
                run.state, figures = run_step(run.state, batch)
            garbage.started()
            done += 1
            figures |= evaluations.after(done)
            reporter.add(done, figures | {"data_wait": waited}, timed=not trace.running)
            if trace.ends_at(done):
                with reporter.aside():
                    trace.close()
            if run.replicas and run.replicas.is_due(done):
                with reporter.aside():
                    run.replicas.check(run.state, done)
            saving.after(done)
            if cfg.train.exit_interval and done % cfg.train.exit_interval == 0:
                break
    conclude(reporter, saving, done)


def conclude(reporter: Reporter, saving: Saving, done: int) -> None:
    """Write the last figures and the last step, and raise what a callback has raised."""
    reporter.flush()
    try:
        reporter.check_that_it_learned()
        saving.at_the_end(done)
    finally:
        reporter.raise_error()


class CompiledTogether:
    """A step that no process of a run begins before all have compiled it.

    gloo gives the last process 30 seconds to come to the first collective.
    """

    def __init__(self, step: Any):
        self.step = step
        self.compiled: dict[tuple[int, ...], Any] = {}  # by the batch's shape

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        shape = batch[WEIGHTS].shape
        if shape not in self.compiled:
            self.compiled[shape] = self.step.lower(state, batch).compile()
            messages.gather_all(f"compiled for {shape[0]} micro-batches")
        return self.compiled[shape](state, batch)


def rate(run: Run) -> Rate:
    plan, of_model = run.plan, (run.plan.model.shapes, run.cfg.model)
    flops = flops_per_token(*of_model, plan.trained)
    if isinstance(plan.objective, PreparedObjective):
        flops += plan.objective.passes * forward_flops_per_token(*of_model)
    return Rate(flops, run.peak)
