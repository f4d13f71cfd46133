"""lm-eval with its own `hf` model on our export against lm-eval with ours, in one process.

`python -m tests.evaluate.against_hf CKPT HF_FOLDER LAMBADA.jsonl WIKITEXT.txt [LIMIT]`: the figures
of both, the greatest differences, and the times, which begin when both models are loaded. One round
warms up what compiles; the second is measured.
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
from jaxneox.parallel.compilation import use_compilation_cache


def flat(answers: Any) -> list[tuple[float, ...]]:
    """lm-eval's `resps`: [[(loglikelihood, greedy)]] or [[loglikelihood]]"""
    found = answers[0][0] if isinstance(answers[0], list) else answers[0]
    return list(found) if isinstance(found, tuple | list) else [float(found)]


def compare(checkpoint: str, exported: str, files: dict[str, Path], limit: int) -> None:
    model = jaxneox.load(checkpoint)
    assert model.tokenizer is not None
    ours = Adapter(
        model.tokenizer,
        model.config.model.seq_length,
        lambda requests, on_done: model.scorer(model.params, requests, on_done),
        model.generate,
    )
    theirs = HFLM(pretrained=exported, device="cpu", dtype="float32", batch_size=16)
    for name, path in files.items():
        times: dict[str, list[float]] = {"ours": [], "hf": []}
        found = {}
        for _ in range(2):
            for side, lm in (("ours", ours), ("hf", theirs)):
                tasks = harness.load({name: path})
                began = time.perf_counter()
                found[side] = harness.evaluate(lm, tasks, limit=limit)
                times[side].append(time.perf_counter() - began)
        apart = [
            abs(float(a) - float(b))
            for mine, other in zip(
                *(f.results["requests"][name] for f in found.values()), strict=True
            )
            for a, b in zip(flat(mine["answers"]), flat(other["answers"]), strict=True)
        ]
        print(f"{name}: {len(found['ours'].results['requests'][name])} documents")
        print(f"  greatest difference of a request's loglikelihood {np.max(apart):.2e}")
        for metric, value in found["ours"].results["results"][name].items():
            other = found["hf"].results["results"][name][metric]
            if isinstance(value, float) and "stderr" not in metric:
                apart_by = abs(value / other - 1) if other else abs(value)
                print(f"  {metric}: {value:.8g} and {other:.8g}, {apart_by:.1e}")
        ratio = times["hf"][1] / times["ours"][1]
        print(f"  seconds {times['ours'][1]:.1f} and {times['hf'][1]:.1f}: {ratio:.2f} x")


def main() -> None:
    checkpoint, exported, lambada, wikitext, *rest = sys.argv[1:]
    use_compilation_cache()
    files = {"lambada_openai": Path(lambada), "wikitext": Path(wikitext)}
    compare(checkpoint, exported, files, int(rest[0]) if rest else 300)


if __name__ == "__main__":
    main()
