"""Greedy `generate` with its cache of keys and values, eager or compiled."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import CompileConfig

from tests.bench.sizes import Case
from tests.bench.theirs.model import device, laid, model_of


def eager(case: Case) -> Callable[[], list[list[int]]]:
    return generating(case)


def compiled(case: Case) -> Callable[[], list[list[int]]]:
    """As transformers compiles it: a step over a cache whose size does not change."""
    how = CompileConfig()
    if device() == "cpu":  # where it would compile nothing without being told to
        how._compile_all_devices, how.mode = True, "default"
    return generating(case, cache_implementation="static", compile_config=how)


def generating(case: Case, **options: Any) -> Callable[[], list[list[int]]]:
    """-> answers of as many tokens as were asked for."""
    model = model_of(case).eval().to(getattr(torch, case.dtype))
    prompts = laid(case.tokens(case.length))
    options |= {
        "attention_mask": torch.ones_like(prompts),
        "max_new_tokens": case.new,
        "min_new_tokens": case.new,
        "do_sample": False,
        "pad_token_id": 0,
    }

    def run() -> list[list[int]]:
        with torch.inference_mode():
            return model.generate(prompts, **options)[:, case.length :].tolist()

    return run
