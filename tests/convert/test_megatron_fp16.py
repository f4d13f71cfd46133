"""Of Megatron-LM's runs in float16: the schedule, which stands still where a step was skipped, the
loss scale and the master weights. Files are our exports with states such as Megatron's save."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import from_megatron, to_megatron  # noqa: E402
from convert.megatron.loss_scale import loss_scale_keys, loss_scale_of  # noqa: E402
from convert.megatron.training_in import training_keys  # noqa: E402
from convert.readers.jaxneox import JaxneoxMoments  # noqa: E402
from convert.readers.megatron_optimizer import MegatronOptimizer  # noqa: E402
from convert.readers.megatron_states import Scaler  # noqa: E402
from convert.readers.torch_dist import DistFolder  # noqa: E402
from convert.writers.torch_dist import DistWriter  # noqa: E402
from jaxneox import checkpoint  # noqa: E402
from jaxneox.config import Settings  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from jaxneox.train.step.scaler import Scale, next_scale  # noqa: E402
from tests.convert.commands import Said, call, run  # noqa: E402
from tests.convert.continued import finish  # noqa: E402
from tests.convert.hf_models import GPT2, write_run  # noqa: E402
from tests.convert.megatron import leaves, rewrite, say  # noqa: E402

BATCH, LR, LOW, LENGTH, WARMUP = 4, 1e-3, 1e-4, 16, 4
ARGS = {"fp16": True, "global_batch_size": BATCH, "micro_batch_size": 1, "train_iters": LENGTH,
        "consumed_train_samples": 3 * BATCH, "clip_grad": 1.0, "initial_loss_scale": 2.0**20,
        "loss_scale_window": 50.0, "hysteresis": 3, "min_loss_scale": 2.0}  # fmt: skip
SCHEDULE = {"max_lr": LR, "min_lr": LOW, "num_steps": 2 * BATCH, "lr_decay_style": "cosine",
            "lr_decay_steps": LENGTH * BATCH, "lr_warmup_steps": WARMUP * BATCH}  # fmt: skip
GROUP = {"lr": LR / 2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "wd_mult": 1.0,
         "step": 2}  # fmt: skip
FACTORS = {"param": 1 + 2.0**-13, "exp_avg": 2.0, "exp_avg_sq": 3.0}
"""Of a float16 weight; master weights round to it again."""


def scaler(scale: float = 4096.0, growth: int = 7, hysteresis: int = 2) -> dict[str, Any]:
    trackers = {"growth_tracker": growth, "hysteresis_tracker": hysteresis}
    return {"scale": torch.tensor([scale])} | trackers


def legacy(folder: Path, **optimizer: Any) -> Path:
    """Step 3 in the `torch` format, of which one was skipped."""
    write_run(folder / "ours", GPT2)
    call(to_megatron, folder / "ours", folder / "m", "--dtype", "float16", "--format", "torch",
         "--no-verify")  # fmt: skip

    def add(state: dict) -> None:
        tensors = [tensor.float() for tensor in state["model"].values()]
        moments = [{"step": 2, "exp_avg": t * FACTORS["exp_avg"],
                    "exp_avg_sq": t.abs() * FACTORS["exp_avg_sq"]} for t in tensors]  # fmt: skip
        inner = {"state": dict(enumerate(moments)),
                 "param_groups": [GROUP | {"params": [*range(len(tensors))]}]}  # fmt: skip
        masters = [[tensor * FACTORS["param"] for tensor in tensors]]
        state["optimizer"] = {"optimizer": inner, "fp32_from_fp16_params": masters} | optimizer
        state["opt_param_scheduler"] = SCHEDULE

    rewrite(folder / "m", add)
    rewrite(folder / "m", say(**ARGS))
    return folder / "m"


def by_name(folder: Path, masters: str, apart: bool) -> Path:
    """The same in `torch_dist`: common settings in `common.pt`, or some of them as objects."""
    from torch.distributed.checkpoint import FileSystemReader

    write_run(folder / "ours", GPT2)
    call(to_megatron, folder / "ours", folder / "h", "--dtype", "float16", "--no-verify")
    at = folder / "h" / "iter_0000003"
    common = torch.load(at / "common.pt", weights_only=False)
    vars(common["args"]).update(ARGS)
    held = {"optimizer": {"param_groups": [GROUP]}, "grad_scaler": scaler()}
    common |= {"opt_param_scheduler": SCHEDULE, "optimizer": {} if apart else held}
    torch.save(common, at / "common.pt")
    index, writer = FileSystemReader(at).read_metadata(), DistWriter(at)
    for name, tensor in DistFolder(at).tensors.items():
        for kind, factor in FACTORS.items():
            key = f"optimizer.state.{masters if kind == 'param' else kind}.{name}"
            value = tensor.numpy().astype(np.float32) * np.float32(factor)
            writer.write("__7_0.distcp", key, value.shape, [0] * value.ndim, value)
    for name, value in held.items() if apart else ():
        key = f"optimizer.distributed.dp_group_idx_0.{name}/shard_0_1"
        writer.write_object("__8_0.distcp", key, [value])
    writer._places |= index.storage_data
    writer._described |= index.state_dict_metadata
    writer.finish()
    return folder / "h"


def imported(source: Path, dst: Path) -> Said:
    return call(from_megatron, source, dst, "--optimizer", "--no-verify")


def counters(run: Path) -> dict[str, float]:
    """Of the newest step."""
    moments = JaxneoxMoments(checkpoint.find(str(run)), "mu")
    names = ("step", "skipped", "scale.factor", "scale.calm", "scale.patience")
    found = {name: moments._stored("training", name).read().result().item() for name in names}
    return found | {"updates": moments.updates, "position": moments.position}


EXPECTED = {"step": 3, "skipped": 1, "updates": 2, "position": 2, "scale.factor": 4096.0,
            "scale.calm": 7, "scale.patience": 2}  # fmt: skip


def test_the_next_step_has_megatrons_rate_and_scale(tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    said = imported(legacy(tmp_path, grad_scaler=scaler()), dst)
    assert counters(dst) == EXPECTED
    assert "schedule" not in said.err and "loss scale" not in said.err
    page = (dst / "certificate.md").read_text()
    assert "position of the schedule" in page and "4096" in page
    keys = checkpoint.read_meta(checkpoint.find(str(dst)))["keys"]
    model = JaxneoxMoments(checkpoint.find(str(dst)), "mu").model
    rows = np.random.default_rng(0).integers(0, model.vocab_size, (2, BATCH, model.seq_length + 1))
    np.savez(tmp_path / "tokens.npz", tokens=rows)
    finish([str(dst), "--mesh", "dp=1", "--tokens", str(tmp_path / "tokens.npz")])
    first, second = map(json.loads, (dst / "metrics.jsonl").read_text().splitlines())
    assert first["loss_scale"] == second["loss_scale"] == 4096.0
    # the third update and the fourth, still in the warm-up
    assert [first["lr"], second["lr"]] == pytest.approx([LR * 2 / WARMUP, LR * 3 / WARMUP])
    after = EXPECTED | {"step": 5, "updates": 4, "position": 4, "scale.calm": 9}
    assert counters(dst) == after
    assert keys["precision"] == "fp16" and keys["fp16"]["loss_scale_window"] == 50


@pytest.mark.parametrize(
    ("masters", "apart"), [("fp32_param", False), ("param", False), ("param", True)]
)
def test_torch_dist_has_it_in_one_place_or_another(
    tmp_path: Path, masters: str, apart: bool
) -> None:
    imported(by_name(tmp_path, masters, apart), tmp_path / "dst")
    assert counters(tmp_path / "dst") == EXPECTED
    weights = leaves(tmp_path / "ours")
    for name, master in leaves(tmp_path / "dst").items():
        half = weights[name].astype(np.float16).astype(np.float32)
        assert np.array_equal(master, half * np.float32(FACTORS["param"])), name


def test_half_precision_has_master_weights(tmp_path: Path) -> None:
    source = legacy(tmp_path, grad_scaler=scaler())
    rewrite(source, lambda state: state["optimizer"].pop("fp32_from_fp16_params"))
    said = run(from_megatron, source, tmp_path / "dst", "--optimizer")
    assert said.status == 2 and "there are no master weights" in said.error
    assert not (tmp_path / "dst").exists()


def test_what_the_files_do_not_say_is_told(tmp_path: Path) -> None:
    source = legacy(tmp_path)
    rewrite(source, lambda state: state.pop("opt_param_scheduler"))
    said = imported(source, tmp_path / "dst")
    assert "do not say where the schedule is" in said.err
    assert "no dynamic loss scale (grad_scaler): it begins anew, at 1.04858e+06" in said.err
    fresh = {"scale.factor": 2.0**20, "scale.calm": 0, "scale.patience": 3}
    assert counters(tmp_path / "dst") == EXPECTED | fresh


@pytest.mark.parametrize(
    "said",
    [{"scale": torch.tensor([math.inf])}, {"scale": torch.tensor([1.0, 2.0])},
     {"growth_tracker": -1}, {"growth_tracker": 2**40}],
)  # fmt: skip
def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, said: dict) -> None:
    source = legacy(tmp_path, grad_scaler=scaler() | said)
    found = run(from_megatron, source, tmp_path / "dst", "--optimizer")
    assert found.status == 2 and "convert the weights alone" in found.error


class MegatronScale:
    """As core/optimizer/grad_scaler.py says, in other words."""

    def __init__(self, at: Scaler, window: int, hysteresis: int, low: float) -> None:
        self.scale, self.calm, self.left = at
        self.window, self.full, self.low = window, hysteresis, low

    def update(self, overflow: bool) -> float:
        if overflow:
            self.calm, self.left = 0, self.left - 1
            if self.left <= 0:
                self.scale = max(self.scale / 2, self.low)
        else:
            self.calm += 1
            if self.calm == self.window:
                self.calm, self.left, self.scale = 0, self.full, self.scale * 2
        return self.scale


@settings(max_examples=60, deadline=None)
@given(
    power=st.integers(-1, 12),
    window=st.integers(1, 5),
    hysteresis=st.integers(1, 4),
    left=st.integers(-3, 4),
    calm=st.integers(0, 4),
    overflows=st.lists(st.booleans(), min_size=1, max_size=12),
)
def test_the_scale_moves_as_megatrons_does(power, window, hysteresis, left, calm, overflows):
    start = Scaler(2.0**power, calm % window, left)
    args = {"loss_scale_window": float(window), "hysteresis": hysteresis, "min_loss_scale": 0.5}
    keys, notes = loss_scale_keys(args, start)
    more = GPT2 | keys | {"precision": "fp16"}
    config = Settings(more).resolve(dp=1, vocab_size=None)
    assert config.precision.loss_scale is not None
    found = loss_scale_of(start, config.precision.loss_scale)
    assert found and not notes
    factor, since, patience = found
    ours = Scale(jnp.float32(factor), jnp.int32(since), jnp.int32(patience))
    theirs = MegatronScale(start, window, hysteresis, 0.5)
    with jax.disable_jit():
        for overflow in overflows:
            ours = next_scale(ours, jnp.asarray(not overflow), config.precision.loss_scale)
            assert float(ours.factor) == theirs.update(overflow)


def read(args: dict, saved: dict, step: int, updates: int) -> tuple[dict, str]:
    optimizer = MegatronOptimizer(updates, [GROUP], {}, saved)
    keys, notes = training_keys(args, optimizer, step, "fp32")
    return keys, " ".join(notes)


def test_what_was_saved_is_the_schedule_whatever_the_arguments_say() -> None:
    args = ARGS | {"lr_decay_style": "linear", "lr_decay_iters": 99, "min_lr": 1e-5, "lr": 1.0}
    keys, said = read(args, SCHEDULE, 3, 2)
    assert keys["lr_decay_iters"] == LENGTH and keys["warmup"] == WARMUP / LENGTH
    assert (keys["lr_decay_style"], keys["min_lr"]) == ("cosine", LOW)
    assert keys["optimizer"]["params"]["lr"] == LR and not said
    # before 2020-12: iterations, by other names
    old = {"start_lr": LR, "min_lr": LOW, "num_iters": 2, "decay_style": "cosine",
           "end_iter": LENGTH, "warmup_iter": WARMUP}  # fmt: skip
    assert read(args, old, 3, 2) == (keys, "")


def test_what_is_not_exact_is_told() -> None:
    assert "which is not a whole number of batches of 4: here it is at step 2" in read(
        ARGS, SCHEDULE | {"num_steps": 9}, 3, 2
    )[1]  # fmt: skip
    assert "decays for 16.5 steps, ours for 16" in read(
        ARGS, SCHEDULE | {"lr_decay_steps": 66}, 3, 2
    )[1]  # fmt: skip
    assert "the log shows that of step 3" in read(ARGS, SCHEDULE | {"num_steps": 20}, 3, 3)[1]
    assert "Adam made 3 updates in 3 steps, but" in read(ARGS, SCHEDULE, 3, 3)[1]
    assert "do not say" in read(ARGS | {"global_batch_size": None}, SCHEDULE, 3, 2)[1]
    for wrong in ({"num_steps": "8"}, {"num_steps": -8}, {"num_steps": 2.0**51}):
        with pytest.raises(UserError, match=r"num_steps is .*, expected"):
            read(ARGS, SCHEDULE | wrong, 3, 2)
    for growth, window in ((7, 5.0), (1, 5.5)):
        said = loss_scale_keys({"loss_scale_window": window}, Scaler(2.0, growth, 1))[1]
        assert "there the scale does not grow" in " ".join(said)
    keys, notes = loss_scale_keys({"loss_scale": 128.0}, None)
    assert keys["fp16"]["loss_scale"] == 128.0 and not notes
