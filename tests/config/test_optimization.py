"""Precision, optimizer, schedule; data, logs, checkpoints."""

from typing import Any

import pytest

from jaxneox.config import Settings
from jaxneox.config.optimization_schema import LossScaleConfig
from jaxneox.config.schema import (
    CheckpointConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
    TokenizerConfig,
)
from tests.config.cases import error, run


def adam(**params: Any) -> dict[str, Any]:
    return {"type": "Adam", "params": params}


def test_precision() -> None:
    assert run().precision.compute == "float32"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "bfloat16"}, "bfloat16"),
        ({"bf16": {"enabled": True}}, "bfloat16"),
        ({"precision": "bfloat16", "bf16": {"enabled": True}}, "bfloat16"),
        ({"precision": "fp16"}, "float16"),
        ({"precision": "fp16", "fp16": {"hysteresis": 3}}, "float16"),
        ({"fp16": {"fp16": True, "enabled": True}}, "float16"),
        ({"fp16": {"enabled": False, "loss_scale": 2}}, "float32"),
        ({"fp16": {"enabled": True, "type": "bfloat16"}}, "bfloat16"),
        ({"fp16": {"enabled": True, "type": "bfloat16"}, "neox_compat": True}, "float16"),
    ]
    for keys, compute in cases:
        precision = run(**keys).precision
        assert precision.compute == compute
        assert (precision.loss_scale is not None) == (compute == "float16")


def test_precisions_that_disagree() -> None:
    on = {"enabled": True}
    assert "precision asks for bfloat16 but the fp16 block asks for fp16" in error(
        precision="bfloat16", fp16=on
    )
    assert "the bf16 block asks for bfloat16" in error(fp16=on, bf16=on)
    assert "enabled is missing" in error(fp16={"loss_scale": 0})
    assert "needs precision fp16" in error(fp16_lm_cross_entropy=True)
    assert not run(fp16=on, fp16_lm_cross_entropy=True).precision.loss_fp32


def test_loss_scale() -> None:
    block: dict[str, Any] = {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": 12,
        "loss_scale_window": 500,
    }
    block |= {"hysteresis": 3, "min_loss_scale": 0.5}
    assert run(fp16=block).precision.loss_scale == LossScaleConfig(None, 4096.0, 500, 3, 0.5)
    consecutive = run(fp16=block | {"consecutive_hysteresis": True}).precision.loss_scale
    assert consecutive == LossScaleConfig(None, 4096.0, 500, 3, 0.5, True)
    assert run(precision="fp16").precision.loss_scale == LossScaleConfig()
    keys: dict[str, Any] = {
        "loss_scale": 128,
        "hysteresis": 1,
        "loss_scale_window": 9,
        "min_scale": 2,
    }
    expected = LossScaleConfig(128.0, 2.0**16, 9, 1, 2.0)
    assert run(precision="fp16", **keys).precision.loss_scale == expected
    assert "fp16.loss_scale is 0.0 but loss_scale is 128.0" in error(fp16=block, loss_scale=128)
    assert "0 is dynamic" in error(precision="fp16", loss_scale=2, dynamic_loss_scale=True)


def test_optimizer() -> None:
    assert run().optimizer == OptimizerConfig()
    block = adam(lr=2e-4, betas=[0.9, 0.95], eps=1e-6)
    expected = OptimizerConfig("adam", 2e-4, (0.9, 0.95), 1e-6, 0.0, 0.01, 0.5)
    assert run(optimizer=block, weight_decay=0.01, gradient_clipping=0.5).optimizer == expected
    assert run(optimizer=adam(weight_decay=0.3)).optimizer.weight_decay == 0.3
    assert "weight_decay is 0.1 but optimizer.params.weight_decay is 0.3" in error(
        optimizer=adam(weight_decay=0.3), weight_decay=0.1
    )


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "SM3", "Adafactor", "Muon", "adam"])
def test_optimizers_by_name_in_any_case(name: str) -> None:
    assert run(optimizer={"type": name}).optimizer.kind == name.lower()
    assert run(optimizer_type=name).optimizer.kind == name.lower()


def test_optimizers_have_their_own_parameters() -> None:
    assert run(optimizer={"type": "lion"}).optimizer.betas == (0.9, 0.99)
    sm3 = run(optimizer={"type": "sm3", "params": {"beta": 0.9, "momentum": 0.5}}).optimizer
    assert (sm3.eps, sm3.momentum, sm3.extra) == (1e-30, 0.5, {"beta": 0.9})
    assert "adam has no such parameter" in error(optimizer=adam(momentum=0.5))
    assert "found [0.9], expected two numbers" in error(optimizer=adam(betas=[0.9]))
    assert "onebitadam is not supported: compressed" in error(optimizer={"type": "OneBitAdam"})
    assert "madgrad_wd is not supported: use AdamW" in error(optimizer_type="madgrad_wd")


def test_variants_of_adam() -> None:
    assert not run(optimizer=adam(adam_w_mode=False)).optimizer.decoupled_decay
    assert not run(no_adamw=True).optimizer.decoupled_decay
    assert run(no_adamw=False).optimizer.decoupled_decay
    assert not run(optimizer=adam(bias_correction=False)).optimizer.bias_correction
    adamw = {"type": "AdamW", "params": {"adam_w_mode": False}}
    assert "adam_w_mode: false is for optimizer.type: adam, found adamw" in error(optimizer=adamw)
    lion = {"type": "Lion", "params": {"bias_correction": False}}
    assert "bias_correction: false is for optimizer.type: adam, found lion" in error(optimizer=lion)
    assert "NeoX's fused Adam refuses it too" in error(optimizer=adam(amsgrad=True))


def test_clipping_is_what_the_yaml_says_unless_neox_is_to_be_reproduced() -> None:
    assert run().optimizer.grad_clip == 1.0
    assert run(gradient_clipping=0).optimizer.grad_clip == 0
    assert run(neox_compat=True).optimizer.grad_clip == 0
    assert run(neox_compat=True, gradient_clipping=0.5).optimizer.grad_clip == 0.5


def test_sm3_has_no_weight_decay_where_neox_is_to_be_reproduced() -> None:
    for compat, kind, decay in ((False, "sm3", 0.1), (True, "sm3", 0.0), (True, "adam", 0.1)):
        assert run(optimizer={"type": kind}, neox_compat=compat).optimizer.weight_decay == decay


def test_schedule() -> None:
    assert run().schedule == ScheduleConfig("linear", 1e-3, 0.0, 10, 0.1, False)
    keys: dict[str, Any] = {
        "lr_decay_style": "Cosine",
        "lr_decay_iters": 25,
        "warmup": 0.1,
        "min_lr": 1e-4,
    }
    assert run(**keys).schedule == ScheduleConfig("cosine", 1e-3, 1e-4, 25, 2.5, False)
    assert run(lr_decay_fraction=0.55).schedule.decay_iters == 5
    assert run(train_iters=0).schedule.decay_iters == 1
    assert run(neox_compat=True).schedule.neox_head
    assert "min_lr 0.01 is above lr 0.001" in error(min_lr=0.01)
    assert "keep one" in error(lr_decay_iters=5, lr_decay_fraction=0.5)


def test_llemmas_schedule() -> None:
    schedule = run(decay_lr_to=0.5, warmup_iters=3).schedule
    assert (schedule.min_lr, schedule.warmup_iters) == (5e-4, 3.0)
    assert "keep one" in error(decay_lr_to=0.5, min_lr=0)
    assert "keep one" in error(warmup_iters=3, warmup=0.1)
    assert "more than the 10 steps of the decay; lower it" in error(warmup_iters=11)


def test_parallel() -> None:
    keys: dict[str, Any] = {
        "pipe_parallel_size": 0,
        "model_parallel_size": 4,
        "sequence_parallel": True,
    }
    keys["zero_optimization"] = {"stage": 3}
    assert Settings(keys).parallel == ParallelConfig(4, 1, 3, True)
    assert Settings({"pipe_parallel_size": 2}).parallel == ParallelConfig(1, 2, 0, False)
    assert "stage is missing" in error(zero_optimization={"reduce_scatter": True})
    assert "found 4, expected 0, 1, 2 or 3" in error(zero_stage=4)


def test_tokenizer() -> None:
    keys = {"tokenizer_type": "hftokenizer", "vocab_file": "v", "model_parallel_size": 2}
    assert Settings(keys).tokenizer == TokenizerConfig("HFTokenizer", "v", None, 128, 2, None)


def test_moments_on_the_host() -> None:
    def zero(**offload: object) -> dict[str, object]:
        return {"stage": 1, "offload_optimizer": offload}

    assert not run(zero_optimization=zero()).parallel.offload_optimizer
    assert not run(zero_optimization=zero(device="none")).parallel.offload_optimizer
    assert run(zero_optimization=zero(device="cpu", pin_memory=True)).parallel.offload_optimizer
    assert "found device: nvme, expected" in error(zero_optimization=zero(device="nvme"))
    assert "found the key 'devise'" in error(zero_optimization=zero(devise="cpu"))


def test_remat() -> None:
    assert run().remat.policy == "none"
    assert run(checkpoint_activations=True).remat.policy == "full"
    assert run(checkpoint_activations=True, remat_policy="dots").remat.policy == "dots"
    assert "set the first to false" in error(checkpoint_activations=True, remat_policy="none")
    assert not run(checkpoint_activations=True).remat.in_cpu
    assert run(checkpoint_activations=True, checkpoint_in_cpu=True).remat.in_cpu
    assert "set checkpoint_activations to true" in error(checkpoint_in_cpu=True)


def test_data() -> None:
    paths: dict[str, Any] = {
        f"{split}_data_paths": ["a", "b"] for split in ("train", "valid", "test")
    }
    data = run(**paths, train_data_weights=[1, 2]).data
    assert (data.train.paths, data.train.weights) == (("a", "b"), (1.0, 2.0))
    assert data.test.weights == ()
    alone = run(train_data_paths=["a"], train_label_data_paths=["b"])
    assert alone.data.source("valid").paths == () and alone.data.train.labels == ("b",)
    assert alone.notes == (
        "valid_data_paths and test_data_paths not set: nothing is evaluated there, as with "
        "eval_iters: 0",
    )
    some = run(train_data_paths=["a"], valid_data_paths=["b"])
    assert some.notes[0].startswith("test_data_paths not set")
    assert not run(train_data_paths=["a"], eval_iters=0).notes
    assert not run(train_data_paths=["a"], valid_data_paths=["b"], do_test=False).notes
    assert "set without train_data_paths" in error(valid_data_paths=["a"])
    assert "valid_label_data_paths has 1 entries" in error(
        train_data_paths=["a"], valid_label_data_paths=["b"]
    )
    assert "keep one" in error(**paths, data_path="a")
    assert "has 1 entries but train_data_paths has 2" in error(**paths, train_data_weights=[1])
    assert "none below 0" in error(**paths, train_data_weights=[2, -1])
    assert "train_label_data_paths has 1" in error(data_path="a", train_label_data_paths=["b"])


def test_checkpoints_and_logs() -> None:
    keys: dict[str, Any] = {
        "save": "s",
        "load": "l",
        "checkpoint_factor": 5,
        "extra_save_iters": [0, 1],
    }
    keys |= {"keep_last_n_checkpoints": 2, "finetune": True, "no_save_optim": True, "iteration": 3}
    assert run(**keys).checkpoint == CheckpointConfig(
        "s", "l", 3, 5, "linear", (0, 1), 2, True, False, True
    )
    assert run().log.wandb is None and run().log.profile is None
    log = run(use_wandb=True, wandb_group="g", profile=True, peak_theoretical_tflops=312).log
    assert log.wandb is not None and log.profile == (10, 12) and log.peak_tflops == 312
    assert (log.wandb["project"], log.wandb["group"]) == ("neox", "g")
    for said, meant in ((None, True), (True, True), (False, False)):
        train = run(do_valid=said, do_test=said).train
        assert (train.do_valid, train.do_test) == (meant, meant)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"initial_scale_power": 2000}, "fp16.initial_scale_power: found 2000"),
        ({"loss_scale": 1e-300}, "fp16.loss_scale: found 1e-300, which float32 does not hold"),
        ({"loss_scale": 1e39}, "fp16.loss_scale: found 1e+39, which float32 does not hold"),
        ({"loss_scale": 1e-30}, "fp16.loss_scale: found 1e-30, by which gradients vanish"),
        ({"min_loss_scale": 0}, "fp16.min_loss_scale: found 0, by which gradients vanish"),
        ({"min_loss_scale": 3, "initial_scale_power": 1}, "is above the first scale, 2 = 2 ^"),
        ({"loss_scale_window": 0}, "fp16.loss_scale_window: found 0"),
        ({"loss_scale_window": 2**31}, "which a 32-bit integer does not hold"),
        ({"hysteresis": 0}, "fp16.hysteresis: found 0"),
    ],
)
def test_impossible_loss_scales(keys: dict[str, Any], said: str) -> None:
    assert said in error(fp16={"enabled": True} | keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loss_scale_window": 0.5}, "loss_scale_window: found 0.5 (float), expected int"),
        ({"loss_scale_window": 1e20}, "loss_scale_window: found 1"),
        ({"min_scale": 1e-50}, "min_scale: found 1e-50, which float32 does not hold"),
        ({"optimizer": adam(eps=0)}, "optimizer.params.eps: found 0, by which"),
        ({"optimizer": adam(eps=1e-60)}, "optimizer.params.eps: found 1e-60, which float32"),
        ({"optimizer": adam(lr=1e300)}, "optimizer.params.lr: found 1e+300, which float32"),
        ({"optimizer": adam(betas=[0.9, 1 - 1e-9])}, "from 0 to below 1 in float32"),
        ({"optimizer": {"type": "sgd", "params": {"momentum": 1.0}}}, "expected a number below 1"),
        ({"optimizer": {"type": "sm3", "params": {"beta": 1.5}}}, "expected a number below 1"),
        ({"weight_decay": 1e-310}, "weight_decay: found 1e-310, which float32"),
        ({"gradient_clipping": 1e39}, "gradient_clipping: found 1e+39, which float32"),
        ({"train_iters": 10**20}, "which a 32-bit integer does not hold: expected at most 21474"),
        ({"hidden_dropout": 1.0}, "hidden_dropout: found 1, which leaves nothing"),
        ({"attention_dropout": 1}, "attention_dropout: found 1, which leaves nothing"),
        ({"expansion_factor": 0}, "the MLP would be 0 wide"),
        ({"pos_emb": "rpe", "rpe_num_buckets": 1}, "expected 2 buckets or more"),
        ({"pos_emb": "rpe", "rpe_max_distance": 16}, "a distance above half of them"),
        ({"lr_factors": {"x": 1e-300}}, "lr_factors: x has 1e-300"),
    ],
)
def test_numbers_that_the_arithmetic_does_not_hold(keys: dict[str, Any], said: str) -> None:
    assert said in error(**keys)


def test_a_base_of_rotary_positions_may_be_large() -> None:
    base = run(pos_emb="rotary", rotary_emb_base=3580165449).model.positions.rotary_base
    assert base == 3580165449.0
