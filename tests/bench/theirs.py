"""transformers' side: GPTNeoX, eager or compiled, with scaled_dot_product_attention."""

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from tests.bench.sizes import CLIP, RATE, Case


def training(case: Case, tokens: np.ndarray, *, compiled: bool, attention: str = "sdpa"):
    """-> one step of AdamW with clipped gradients, which returns its loss."""
    model = _model(case, attention).train()
    given = _laid(tokens)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    loss_of = torch.compile(_loss) if compiled else _loss

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with _precision(case):
            loss = loss_of(model, given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return run


def forward(case: Case, tokens: np.ndarray, *, compiled: bool, attention: str = "sdpa"):
    """-> all logits of a batch; returns one of them."""
    model = _model(case, attention).eval()
    given = _laid(tokens)
    call: Callable = torch.compile(model) if compiled else model

    def run() -> float:
        with torch.inference_mode(), _precision(case):
            return float(call(given).logits[0, 0, 0])

    return run


def _loss(model: GPTNeoXForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Of [batch, length + 1]: as many predictions as ours."""
    logits = model(tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def _model(case: Case, attention: str) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(case.theirs(attention)).to(device())


def _laid(tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tokens.astype(np.int64)).to(device())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _precision(case: Case):
    if case.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device(), torch.bfloat16)
