"""The loop around the compiled step: batches in, figures and checkpoints out."""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager

import jax
import numpy as np

from jaxneox.checkpoint import Saver
from jaxneox.data import Split, prefetch
from jaxneox.errors import UserError
from jaxneox.model import Params
from jaxneox.train.feed import Feed
from jaxneox.train.flops import flops_per_token, peak_flops
from jaxneox.train.metrics import Figures, Sink, open_sinks
from jaxneox.train.progress import Bar, Rate
from jaxneox.train.run import Run, training_part
from jaxneox.train.schedule import evaluates_at, saves_at
from jaxneox.train.state import TrainState
from jaxneox.train.step import Evaluation, build_step

PATIENCE = 10  # steps in a row that may be skipped for a loss or gradient that is not finite
PATIENCE_SCALING = 50  # the same where a loss scale is still looking for its level, as in NeoX


class Reporter:
    """Waits for each step's figures only after the next step is under way, then passes them on."""

    def __init__(self, run: Run, sinks: list[Sink], bar: Bar):
        self.sinks, self.bar = sinks, bar
        self.limit = PATIENCE_SCALING if run.cfg.precision.loss_scale else PATIENCE
        self.tokens = run.cfg.batch.global_size * run.cfg.model.seq_length
        self.waiting: deque[tuple[int, Figures]] = deque()
        self.clock = time.perf_counter()

    def add(self, step: int, figures: Figures) -> None:
        self.waiting.append((step, figures))
        if len(self.waiting) > 1:
            self._pass_on()

    def flush(self) -> None:
        while self.waiting:
            self._pass_on()

    def timeless(self, evaluate: "Evaluator", state: TrainState, first: int) -> Figures:
        """An evaluation whose time is no step's."""
        self.flush()
        jax.block_until_ready(state)
        start = time.perf_counter()
        figures = evaluate(state.params, first)
        self.clock += time.perf_counter() - start
        return figures

    def _pass_on(self) -> None:
        step, on_device = self.waiting.popleft()
        figures = {name: np.asarray(value).item() for name, value in on_device.items()}
        now = time.perf_counter()
        figures |= {"tokens": self.tokens, "seconds": now - self.clock}
        self.clock = now
        for sink in self.sinks:
            sink.write(step, figures)
        self.bar.show(step, figures)
        if figures["streak"] >= self.limit:
            raise UserError(
                f"step {step}: {figures['streak']} steps in a row had a loss or a gradient that is "
                f"not finite (loss {figures['loss']}); stopped. Continue from the last checkpoint "
                "with a smaller learning rate"
            )


class Evaluator:
    """The mean loss over eval-iters batches of a split, without dropout."""

    def __init__(self, run: Run, split: Split):
        plan = run.plan
        self.name, self.count = f"{split}_loss", run.cfg.train.eval_iters
        self.loader = run.loader_of(split) if self.count else None
        if self.loader is not None:
            self.feed = Feed(self.loader, run.cfg.batch, run.mesh, plan.rules)
        self.sums = jax.jit(Evaluation(plan.model))

    def __call__(self, params: Params, first: int) -> Figures:
        """Batches `first` and those after it; nothing where the split is empty."""
        if self.loader is None:
            return {}
        parts = [self.sums(params, self.feed(first + i)) for i in range(self.count)]
        total, weight = (sum(x.item() for x in column) for column in zip(*parts, strict=True))
        return {self.name: total / weight}


def train(run: Run) -> bool:
    """Runs to the end, or until it is interrupted; saves either way. True if it came to the end."""
    cfg, plan = run.cfg, run.plan
    rate = Rate(
        flops_per_token(plan.model.shapes, cfg.model),
        cfg.log.peak_tflops * 1e12
        if cfg.log.peak_tflops
        else peak_flops(list(run.mesh.devices.flat)),
    )
    saver = Saver(run.folder, cfg.checkpoint.keep_last) if run.folder else None
    run.write_config()
    sinks = open_sinks(cfg.log, cfg.keys, run.folder, run.step)
    bar = Bar(run.step, run.last, cfg.log.interval, rate)
    reporter = Reporter(run, sinks, bar)
    try:
        with jax.set_mesh(run.mesh), interruptions() as interrupted:
            steps(run, reporter, saver, interrupted)
        if saver is not None:
            saver.wait()
        return not interrupted.is_set()
    finally:
        bar.close()
        for sink in sinks:
            sink.close()
        if saver is not None:
            saver.close()


def steps(run: Run, reporter: Reporter, saver: Saver | None, interrupted: threading.Event) -> None:
    """Steps until the end or an interruption, with saves and evaluations where they are due."""
    cfg, plan = run.cfg, run.plan
    step = build_step(cfg, plan.model, plan.optimizer, plan.rules)
    validate, test = Evaluator(run, "valid"), Evaluator(run, "test")
    feed = Feed(run.loader, cfg.batch, run.mesh, plan.rules, run.first)
    done = saved = run.step
    if done == 0 and 0 in cfg.checkpoint.extra_iters:
        save(run, saver, 0)
    with closing(prefetch(feed, done)) as batches:
        while done < run.last and not interrupted.is_set():
            _, batch = next(batches)
            run.state, figures = step(run.state, batch)
            done += 1
            if evaluates_at(done, cfg.train):
                first = (done // cfg.train.eval_interval - 1) * cfg.train.eval_iters
                figures |= reporter.timeless(validate, run.state, first)
            if done == run.last and cfg.train.do_test:
                figures |= reporter.timeless(test, run.state, 0)
            reporter.add(done, figures)
            if saves_at(done, cfg.checkpoint):
                save(run, saver, done)
                saved = done
            if cfg.train.exit_interval and done % cfg.train.exit_interval == 0:
                break
    reporter.flush()
    if saved != done:
        save(run, saver, done)


def save(run: Run, saver: Saver | None, step: int) -> None:
    if saver is not None:
        training = training_part(run.state) if run.cfg.checkpoint.save_optimizer else None
        saver.save(step, run.state.params, training, run.meta())


@contextmanager
def interruptions() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one ends the process as usual."""
    event = threading.Event()

    def note(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
