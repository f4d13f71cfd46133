"""EleutherAI's lm-eval with one of our checkpoints as its model."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxneox.console.progress import progress
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.evaluate.report import Scores
from jaxneox.evaluate.tasks import (
    TaskManager,
    TemplateLM,
    get_rolling_token_windows,
    lm_eval,
    make_disjoint_window,
    quiet,
)
from jaxneox.infer.generate import Answer
from jaxneox.infer.scoring import Request, Scored

# Each document's templates are compiled anew otherwise: as much time as a small model takes.
lm_eval.utils.env.from_string = functools.cache(lm_eval.utils.env.from_string)

BOOTSTRAPS = 1000  # for the standard errors of perplexities; lm-eval's own 100,000 take minutes

Score = Callable[[Sequence[Request], Callable[[int], object]], list[Scored]]
Generate = Callable[..., list[Answer]]


class Adapter(TemplateLM):
    """A model for lm-eval, made of functions: how likely tokens are, and what follows texts."""

    def __init__(self, tokenizer: Tokenizer, room: int, score: Score, generate: Generate | None):
        super().__init__()
        self.own, self.max_length, self._score, self._generate = tokenizer, room, score, generate
        self.cut = 0  # requests that lost their beginning

    @property
    def eot_token_id(self) -> int:
        if self.own.eod is None:
            raise UserError("this task needs an end-of-document token, and the tokenizer has none")
        return self.own.eod

    @property
    def prefix_token_id(self) -> int:
        """The token before every text if the tokenizer has one, else the one that ends a text."""
        return self.eot_token_id if self.own.begin is None else self.own.begin

    @property
    def tokenizer_name(self) -> str:
        return self.own.fingerprint()

    def tok_encode(self, string: str, add_special_tokens: Any = None, **_: Any) -> list[int]:
        return self.own.encode(string)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        cut = [self._request(context, continuation) for _, context, continuation in requests]
        with progress("loglikelihood", len(cut), "requests") as advance:
            scored = self._score(cut, advance)
        results = [(one.total, bool(one.likeliest.all())) for one in scored]
        for (texts, _, _), result in zip(requests, results, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def _request(self, context: list[int], continuation: list[int]) -> Request:
        whole = [*context, *continuation]
        kept = whole[-(self.max_length + 1) :]
        self.cut += len(kept) < len(whole)
        return Request(kept, max(1, len(kept) - len(continuation)))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            for pair in get_rolling_token_windows(
                token_list=self.tok_encode(text)[self.own.begin is not None :],
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                context, continuation = make_disjoint_window(pair)
                windows.append(Request([*context, *continuation], len(context)))
                owners.append(number)
        totals = [0.0] * len(requests)
        with progress("rolling loglikelihood", len(windows), "windows") as advance:
            for owner, scored in zip(owners, self._score(windows, advance), strict=True):
                totals[owner] += scored.total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        if self._generate is None:
            raise UserError("this task generates text, which is not done while training")
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        texts: dict[int, str] = {}
        with progress("generation", len(requests), "requests") as advance:
            for numbers in alike.values():
                some = [requests[number] for number in numbers]
                answers = self._answers(some, lambda *_: advance(1))
                for number, request, answer in zip(numbers, some, answers, strict=True):
                    texts[number] = answer.text or ""
                    self.cache_hook.add_partial("generate_until", request.args, texts[number])
        return [texts[number] for number in range(len(requests))]

    def _answers(self, requests: list[Any], on_answer: Callable[..., object]) -> list[Answer]:
        """Answer requests with the same settings."""
        assert self._generate is not None
        settings = dict(requests[0].args[1])
        until = settings.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        most = int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or 256)
        most = min(most, self.max_length - 1)
        sampled = settings.get("do_sample", bool(settings.get("temperature")))
        drawn = ("temperature", "top_p", "top_k") if sampled else ()
        sampling = {key: settings[key] for key in drawn if settings.get(key)}
        if sampled and "temperature" not in sampling:
            sampling["temperature"] = 1.0
        prompts = []
        for request in requests:
            ids = self.tok_encode(request.args[0]) or [self.eot_token_id]
            prompts.append(ids[-(self.max_length - most) :])
            self.cut += len(prompts[-1]) < len(ids)
        stop = [text for text in stop if text]
        return self._generate(prompts, max_tokens=most, stop=stop, on_answer=on_answer, **sampling)


def evaluate(
    adapter: Adapter,
    tasks: list[Any],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    cache: str | None = None,
) -> Scores:
    with quiet():
        output = lm_eval.simple_evaluate(
            model=adapter,
            tasks=tasks,
            limit=limit,
            num_fewshot=num_fewshot,
            use_cache=cache,
            task_manager=TaskManager(include_defaults=False),  # they are loaded already
            bootstrap_iters=BOOTSTRAPS,
            log_samples=True,
        )
    samples = output.pop("samples")
    each = {
        (task, metric): [_figure(one[metric]) for one in some]
        for task, some in samples.items()
        for metric in some[0].get("metrics", [])
    }
    kept = ("results", "groups", "versions", "n-samples", "n-shot", "higher_is_better")
    results = {key: output[key] for key in kept if key in output}
    results["requests"] = {
        task: [{"doc_id": one["doc_id"], "answers": one["resps"]} for one in some]
        for task, some in samples.items()
    }
    return Scores(results, each)


def _figure(value: Any) -> float:
    """Return a document's figure; of (log-probability, units) the mean of a unit."""
    return float(value[0] / value[1]) if isinstance(value, list | tuple) else float(value)
