"""lm-eval with its own `hf` model on our export against lm-eval with ours, in one process.

`python -m tests.evaluate.against_hf CKPT HF_FOLDER LIMIT TASK=FILE…`: the figures of both, the
greatest differences, and the times, which begin when both models are loaded.

A request of WikiText is a page, whose log-probability of -30,000 has a last place of 2e-3 in
float32. The differences of both sides are therefore to lm-eval's model in float64. Times are those
of its model as lm-eval's command makes it, in float32.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.models.huggingface import HFLM

import jaxneox
from jaxneox.evaluate import harness
from jaxneox.evaluate.harness import Adapter
from jaxneox.evaluate.mesh import usual_mesh
from jaxneox.evaluate.report import Scores
from jaxneox.evaluate.tasks import AskedTasks, load
from jaxneox.loading import locate
from jaxneox.parallel.compilation import use_compilation_cache


def answers(found: Scores, name: str) -> np.ndarray:
    """The log-likelihood of each request. lm-eval's `resps`: [[(it, greedy)]] or [it]"""
    flat = []
    for one in found.results["requests"][name]:
        first = one["answers"][0]
        while isinstance(first, list | tuple):
            first = first[0]
        flat.append(float(first))
    return np.array(flat)


def greedy(found: Scores, name: str) -> list[Any]:
    return [values for which, values in found.each.items() if which == (name, "acc")]


def timed(lm: Any, name: str, path: Path, limit: int) -> tuple[Scores, float]:
    tasks = load(AskedTasks({name: path}, {}))
    began = time.perf_counter()
    found = harness.evaluate(lm, tasks, limit=limit)
    return found, time.perf_counter() - began


def compare(ours: Adapter, hf: HFLM, exact: HFLM, name: str, path: Path, limit: int) -> None:
    _, first = timed(ours, name, path, limit)
    timed(hf, name, path, 2)
    mine, seconds = timed(ours, name, path, limit)
    theirs, their_seconds = timed(hf, name, path, limit)
    summed, _ = timed(exact, name, path, limit)
    wanted = answers(summed, name)
    for side, found in (("ours", mine), ("lm-eval's float32 sums", theirs)):
        apart = np.abs(answers(found, name) - wanted).max()
        print(f"{name}: {len(wanted)} documents, {side}: loglikelihoods within {apart:.2e}")
    print(f"  the same documents right: {greedy(mine, name) == greedy(summed, name)}")
    for metric, value in mine.results["results"][name].items():
        other = summed.results["results"][name][metric]
        if isinstance(value, float) and "stderr" not in metric:
            apart_by = abs(value / other - 1) if other else abs(value)
            print(f"  {metric}: {value:.8g} and {other:.8g}, {apart_by:.1e}")
    print(
        f"  {seconds:.1f} s and {their_seconds:.1f} s: {their_seconds / seconds:.2f} x; "
        f"a first time {first:.1f} s, {their_seconds / first:.2f} x",
        flush=True,
    )


def main() -> None:
    checkpoint, exported, limit, *files = sys.argv[1:]
    use_compilation_cache()
    model = jaxneox.load(checkpoint, mesh=usual_mesh(locate(checkpoint).folder))
    assert model.tokenizer is not None
    ours = Adapter(
        model.tokenizer,
        model.config.model.seq_length,
        lambda requests, on_done: model.score(requests, on_done),
        model.generate,
    )
    how: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 16}
    hf = HFLM(pretrained=exported, **how)
    exact = HFLM(
        pretrained=exported,
        softmax_dtype="float64",
        **(how | {"dtype": "float64", "batch_size": 1}),
    )
    for word in files:
        name, _, path = word.partition("=")
        compare(ours, hf, exact, name, Path(path), int(limit))


if __name__ == "__main__":
    main()
