"""LoRA's training against PEFT's: losses and the gradient of every leaf, ten steps."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

import jaxneox  # noqa: E402
from convert import from_peft, to_peft  # noqa: E402
from convert.readers.adapter import open_adapter  # noqa: E402
from jaxneox.config.schema import OptimizerConfig, ScheduleConfig, TrainConfig  # noqa: E402
from jaxneox.model.lora import PATTERN  # noqa: E402
from tests.convert.adapters import FAMILIES, bench  # noqa: E402
from tests.convert.commands import call  # noqa: E402
from tests.parallel.meshes import Mesh, train  # noqa: E402

BOUND = 1e-5
"""Both sides compute in float32; ten steps of AdamW apart by no more than rounding."""

STEPS, ROWS, LR = 10, 4, 1e-3

SAME_MATRICES = ("neox", "gpt2")
"""Elsewhere PEFT has an A for each of queries, keys and values, where ours is one for all three."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PEFT's own, of versions that differ
@pytest.mark.parametrize("family", SAME_MATRICES)
def test_ten_steps_as_peft_takes_them(tmp_path: Path, family: str) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, which is installed apart")
    made = bench(tmp_path, FAMILIES[family])
    call(to_peft, made.adapter, tmp_path / "peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(made.hf, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft", is_trainable=True)
    start = jaxneox.load(made.adapter)
    length = min(16, start.config.model.seq_length)
    random = np.random.default_rng(0)
    tokens = random.integers(0, 40, (STEPS, ROWS, length + 1)).astype(np.int32)
    losses, gradients = peft_steps(model, tokens, made.base, tmp_path)
    cfg = dataclasses.replace(start.config.model, seq_length=length)
    found = train(
        Mesh(),
        cfg,
        batches=tokens,
        weights={name: np.array(w) for name, w in start.params.items()},
        train=TrainConfig(STEPS, trainable=(PATTERN,)),
        optimizer=OptimizerConfig("adam", lr=LR, betas=(0.9, 0.999), weight_decay=0.0, grad_clip=0),
        schedule=ScheduleConfig("constant", lr=LR, decay_iters=STEPS),
    )
    assert found.losses == pytest.approx(losses, rel=BOUND)
    assert found.grads.keys() == gradients.keys()
    largest = max(np.linalg.norm(x) for x in gradients.values())
    apart = {
        name: np.linalg.norm(found.grads[name] - x) / max(np.linalg.norm(x), 1e-3 * largest)
        for name, x in gradients.items()
    }
    trained = open_adapter(saved(model, made.base, tmp_path / "after"))
    ends = {
        name: np.linalg.norm(found.params[name] - trained.leaf(name))
        / np.linalg.norm(trained.leaf(name))
        for name in gradients
    }
    worst = max(abs(a / b - 1) for a, b in zip(found.losses, losses, strict=True))
    print(f"{family}: {worst:.1e} {max(apart.values()):.1e} {max(ends.values()):.1e}")
    assert max(apart.values()) <= BOUND and max(ends.values()) <= 10 * BOUND


def peft_steps(
    model: Any, tokens: np.ndarray, base: Path, folder: Path
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Train with torch's AdamW; return the losses and the first gradients by our names."""
    learned = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LR, weight_decay=0.0)
    losses, gradients = [], {}
    for batch in tokens:
        ids = torch.tensor(batch, dtype=torch.long)
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss))
        if not gradients:
            gradients = as_weights(model, learned, base, folder / "gradients")
        optimizer.step()
    return losses, gradients


def as_weights(model: Any, learned: list[Any], base: Path, folder: Path) -> dict[str, np.ndarray]:
    """Return the gradients by our names, as a conversion moves weights."""
    kept = [w.detach().clone() for w in learned]
    with torch.no_grad():
        for w in learned:
            w.copy_(w.grad)
    moved = open_adapter(saved(model, base, folder))
    with torch.no_grad():
        for w, before in zip(learned, kept, strict=True):
            w.copy_(before)
    return {name: np.array(moved.leaf(name)) for name in moved.shapes}


def saved(model: Any, base: Path, folder: Path) -> Path:
    """Convert the adapter as it is now to a run of ours."""
    model.save_pretrained(folder / "peft")
    call(from_peft, folder / "peft", folder / "run", "--base", base)
    return folder / "run"
