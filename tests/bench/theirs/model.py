"""transformers' GPTNeoX, with scaled_dot_product_attention."""

import contextlib

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from tests.bench.sizes import Case


def model_of(case: Case) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(case.theirs()).to(device())


def laid(tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tokens.astype(np.int64)).to(device())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(case: Case) -> contextlib.AbstractContextManager:
    if case.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device(), torch.bfloat16)
