"""What a run evaluates while it trains: its splits, and lm-eval's tasks."""

from functools import cache

import jax

from jaxneox.config.schema import Config
from jaxneox.console.waiting import waiting
from jaxneox.data import Split
from jaxneox.hosts.watch import mark
from jaxneox.parallel.compiler_options import jit_on
from jaxneox.train.loop.characters import perplexity, tokens_per_character
from jaxneox.train.loop.intervals import evaluates_at, evaluates_before, first_of_evaluation
from jaxneox.train.loop.tasks import Tasks
from jaxneox.train.reporting.metrics import Figures
from jaxneox.train.reporting.reporter import Reporter
from jaxneox.train.run import Run
from jaxneox.train.step.feed import Feed
from jaxneox.train.step.state import TrainState
from jaxneox.train.step.step import Evaluation


class Evaluations:
    """All evaluations of a run, each when it is due."""

    def __init__(self, run: Run, reporter: Reporter):
        self.run, self.reporter = run, reporter
        self.validate, self.test = Evaluator(run, "valid"), Evaluator(run, "test")
        self.tasks = Tasks(run)
        self.start: Figures = {}

    def before_the_first(self, done: int) -> None:
        """Evaluate the parameters with which the run begins, if it asks for that."""
        if not evaluates_before(done, self.run.cfg.train):
            return
        say = self.reporter.bar.say
        with self.reporter.aside(), waiting("evaluating before the first step", say):
            self.start = self.validate(self.run.state, 0)
        self.reporter.bar.say_evaluations(done, self.start)

    def after(self, done: int) -> Figures:
        """Return the figures that are due after a step; with the first those from before it."""
        run, train = self.run, self.run.cfg.train
        figures: Figures = {f"start_{name}": value for name, value in self.start.items()}
        self.start = {}
        if evaluates_at(done, train):
            with self.reporter.aside():
                figures |= self.validate(run.state, first_of_evaluation(done, train))
        if done == run.last and train.do_test:
            with self.reporter.aside():
                figures |= self.test(run.state, 0)
        if self.tasks.due(done):
            with self.reporter.aside():
                scores = self.tasks(run.state.params, done)
            self.reporter.bar.say(self.tasks.line(done, scores))
            figures |= scores
        return figures


class Evaluator:
    """Computes the mean loss and figures over eval-iters batches of a split, without dropout."""

    def __init__(self, run: Run, split: Split):
        plan = run.plan
        self.split, self.count = split, iterations(run.cfg, split)
        self.by_characters, self.tokenizer = run.cfg.train.char_level_ppl, run.tokenizer
        self.loader = run.loader_of(split) if self.count else None
        if self.loader is not None:
            self.feed = Feed(self.loader, run.cfg.batch, run.mesh, plan.rules)
        self.sums = jit_on(run.mesh, Evaluation(plan))
        self.tokens_per_character = cache(self._tokens_per_character)

    def __call__(self, state: TrainState, first: int) -> Figures:
        """Evaluate the batches from number `first` on; return no figure if the split is empty."""
        if self.loader is None:
            return {}
        parts = []
        for i in range(self.count):
            mark(f"waiting for batch {i} of {self.split}_loss", patient=i == 0)
            parts.append(self.sums(state.params, state.reference, self.feed(first + i)))
        mark(f"computing {self.split}_loss", patient=True)
        sums, weights, wholes = zip(*[jax.device_get(part) for part in parts], strict=True)
        total, of_batches = (
            jax.tree.map(lambda *each: sum(x.item() for x in each), *trees)
            for trees in (sums, wholes)
        )
        weight = sum(x.item() for x in weights)
        loss, figures = jax.tree.map(lambda x: x / weight if weight else float("nan"), total)
        figures |= {name: x / len(parts) for name, x in of_batches.items()}  # all of one size
        if self.by_characters:
            figures["char_ppl"] = perplexity(loss, self.tokens_per_character(first))
        return {f"{self.split}_{name}": x for name, x in ({"loss": loss} | figures).items()}

    def _tokens_per_character(self, first: int) -> float:
        assert self.loader is not None
        mark(f"counting the characters of {self.split}_loss", patient=True)
        numbers = range(first, first + self.count)
        return tokens_per_character(self.loader, self.tokenizer, numbers)


def iterations(cfg: Config, split: Split) -> int:
    """Count the batches of one evaluation; 0 if the YAML asks for none, and no data is needed."""
    asked = {"train": False, "valid": cfg.train.do_valid, "test": cfg.train.do_test}[split]
    return cfg.train.eval_iters * asked
