"""A step of AdamW with clipped gradients, eager or compiled."""

from collections.abc import Callable

import torch
from transformers import GPTNeoXForCausalLM

from tests.bench.sizes import CLIP, RATE, Case
from tests.bench.theirs.model import device, laid, model_of, precision


def eager(case: Case) -> Callable[[], float]:
    return stepping(case, loss_of)


def compiled(case: Case) -> Callable[[], float]:
    return stepping(case, torch.compile(loss_of))


def stepping(case: Case, loss_of: Callable) -> Callable[[], float]:
    """-> one step, which returns its loss."""
    model = model_of(case).train()
    given = laid(case.tokens(case.length + 1))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with precision(case):
            loss = loss_of(model, given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if device() == "cuda":
            torch.cuda.synchronize()  # the next begins where this one has ended
        return float(loss.detach())

    return run


def loss_of(model: GPTNeoXForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Of [batch, length + 1]: as many predictions as ours."""
    logits = model(tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
