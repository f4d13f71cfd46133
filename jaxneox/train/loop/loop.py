"""The loop around the compiled step: batches in, figures and checkpoints out."""

import threading
import time
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import jax

from jaxneox.config.schema import Config
from jaxneox.console.waiting import waiting
from jaxneox.data import EndOfBatches, Split, prefetch
from jaxneox.hosts import messages
from jaxneox.hosts.stopping import SharedStop, interruptions
from jaxneox.hosts.watch import mark
from jaxneox.objectives import WEIGHTS, Batch, PreparedObjective
from jaxneox.train.checkpoints.saving import Saving
from jaxneox.train.loop.intervals import evaluates_at, evaluates_before, first_of_evaluation
from jaxneox.train.loop.profile import Trace
from jaxneox.train.loop.tasks import Tasks
from jaxneox.train.reporting.metrics import Figures, open_sinks
from jaxneox.train.reporting.progress import Bar, Rate
from jaxneox.train.reporting.reporter import Reporter
from jaxneox.train.run import Run
from jaxneox.train.step.feed import Feed
from jaxneox.train.step.flops import flops_per_token, forward_flops_per_token, peak_flops
from jaxneox.train.step.state import TrainState
from jaxneox.train.step.step import Evaluation, Metrics, build_step


class Evaluator:
    """Computes the mean loss and figures over eval-iters batches of a split, without dropout."""

    def __init__(self, run: Run, split: Split):
        plan = run.plan
        self.split, self.count = split, iterations(run.cfg, split)
        self.loader = run.loader_of(split) if self.count else None
        if self.loader is not None:
            self.feed = Feed(self.loader, run.cfg.batch, run.mesh, plan.rules)
        self.sums = jax.jit(Evaluation(plan))

    def __call__(self, state: TrainState, first: int) -> Figures:
        """Evaluate the batches from number `first` on; return no figure if the split is empty."""
        if self.loader is None:
            return {}
        parts = []
        for i in range(self.count):
            mark(f"waiting for batch {i} of {self.split}_loss", patient=i == 0)
            parts.append(self.sums(state.params, state.reference, self.feed(first + i)))
        mark(f"computing {self.split}_loss", patient=True)
        sums, weights = zip(*[jax.device_get(part) for part in parts], strict=True)
        total = jax.tree.map(lambda *each: sum(x.item() for x in each), *sums)
        weight = sum(x.item() for x in weights)
        loss, figures = jax.tree.map(lambda x: x / weight if weight else float("nan"), total)
        return {f"{self.split}_{name}": x for name, x in ({"loss": loss} | figures).items()}


def iterations(cfg: Config, split: Split) -> int:
    """Count the batches of one evaluation; 0 if the YAML asks for none, and no data is needed."""
    asked = {"train": False, "valid": cfg.train.do_valid, "test": cfg.train.do_test}[split]
    return cfg.train.eval_iters * asked


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
    step = build_step(plan)
    validate, test, tasks = Evaluator(run, "valid"), Evaluator(run, "test"), Tasks(run)
    feed = Feed(run.loader, cfg.batch, run.mesh, plan.rules, run.first)
    run_step = CompiledTogether(step) if messages.count() > 1 else step
    stop = SharedStop(run.mesh, interrupted)
    begun = done = run.step
    saving.before_the_first()
    start = figures_before(run, reporter, validate)
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
            done += 1
            figures, start = figures | start, {}
            if evaluates_at(done, cfg.train):
                with reporter.aside():
                    figures |= validate(run.state, first_of_evaluation(done, cfg.train))
            if done == run.last and cfg.train.do_test:
                with reporter.aside():
                    figures |= test(run.state, 0)
            if tasks.due(done):
                with reporter.aside():
                    scores = tasks(run.state.params, done)
                bar.say(tasks.line(done, scores))
                figures |= scores
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


def figures_before(run: Run, reporter: Reporter, validate: Evaluator) -> Figures:
    """Evaluate before a run's first step if that is due; its figures go beside that step's."""
    if not evaluates_before(run.step, run.cfg.train):
        return {}
    with reporter.aside(), waiting("evaluating before the first step", reporter.bar.say):
        found = validate(run.state, 0)
    reporter.bar.say_evaluations(run.step, found)
    return {f"start_{name}": value for name, value in found.items()}


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
    given = run.cfg.log.peak_tflops
    peak = given * 1e12 if given else peak_flops(list(run.mesh.devices.flat))
    plan, of_model = run.plan, (run.plan.model.shapes, run.cfg.model)
    flops = flops_per_token(*of_model, plan.trained)
    if isinstance(plan.objective, PreparedObjective):
        flops += plan.objective.passes * forward_flops_per_token(*of_model)
    return Rate(flops, peak)
