"""lm-eval's tasks while a run trains: the YAML's `eval_tasks`, every eval-interval steps."""

import json
from pathlib import Path

from jaxneox.data.atomic import atomic_file
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.hosts.watch import mark
from jaxneox.infer.scoring import Scorer
from jaxneox.model import Params
from jaxneox.train.reporting.metrics import Figures
from jaxneox.train.run import Run


class Tasks:
    """Evaluates tasks with the run's parameters, on its mesh; refuses tasks that generate text."""

    def __init__(self, run: Run):
        cfg = run.cfg.train
        self.every, self.last, self.prefix = cfg.eval_interval, run.last, cfg.eval_results_prefix
        self.names = ",".join(cfg.eval_tasks)
        if not self.names:
            return
        from jaxneox.evaluate import harness, tasks  # slow to import

        if run.tokenizer is None:
            raise UserError(
                "eval_tasks needs a tokenizer and the run has none: leave eval_tasks out"
            )
        self.harness, self.tasks = harness, tasks.load(tasks.check(self.names))
        generating = [t.config.task for t in self.tasks if t.OUTPUT_TYPE == "generate_until"]
        if generating:
            raise UserError(
                f"eval_tasks: {', '.join(generating)} generates text, which is not done while "
                "training; use `jaxneox evaluate` on the checkpoints"
            )
        scorer = Scorer(run.plan.model, run.mesh)
        self.adapter = harness.Adapter(
            run.tokenizer,
            run.cfg.model.seq_length,
            lambda requests, on_done: scorer(self.params, requests, on_done),
            None,
        )

    def due(self, step: int) -> bool:
        return bool(self.names) and (step % self.every == 0 or step == self.last)

    @staticmethod
    def line(step: int, figures: Figures) -> str:
        known = (f"{name.removeprefix('eval/')} {value:.4g}" for name, value in figures.items())
        return f"step {step:>6}  " + ", ".join(part for part in known if "_stderr" not in part)

    def __call__(self, params: Params, step: int) -> Figures:
        """Evaluate all tasks, and return `eval/TASK/METRIC` for each.

        With eval_results_prefix the results also become a file, with each document's answer.
        """
        mark(f"evaluating {self.names}", patient=True)
        self.params = params
        evaluation = self.harness.evaluate(self.adapter, self.tasks)
        if self.prefix and messages.is_first():
            path = Path(f"{self.prefix}_eval_results_step_{step}.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(json.dumps(evaluation.results, indent=1, default=str).encode())
        return {
            f"eval/{task}/{metric.removesuffix(',none')}": float(value)
            for task, metrics in evaluation.results["results"].items()
            for metric, value in metrics.items()
            if isinstance(value, int | float) and "," in metric
        }
