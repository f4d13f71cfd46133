"""Keys that NeoX renamed or removed."""

import pathlib
from typing import Any

import pytest

from jaxneox.config import Settings, apply_set, load_yaml
from jaxneox.config.fates import Used
from jaxneox.config.keys import KEYS
from jaxneox.config.keys.past import RENAMED
from tests.config.cases import error, run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"save_interval": 500}, {"checkpoint_factor": 500}),
        ({"optimizer": {"params": {"max_grad_norm": 0.5}}}, {"gradient_clipping": 0.5}),
        ({"out_seq_length": 102}, {"maximum_tokens": 102}),
        ({"max_tokens": 102}, {"maximum_tokens": 102}),
        ({"genfile": "a"}, {"sample_output_file": "a"}),
        ({"genfile": "a", "sample_output_file": "b"}, {"sample_output_file": "b"}),
        ({"rms_norm": True}, {"norm": "rmsnorm"}),
        ({"rms_norm": False, "norm": "scalenorm"}, {"norm": "scalenorm"}),
        ({"gptj_residual": True}, {"gpt_j_residual": True}),
        ({"log_parameter_norm": True}, {"log_param_norm": True}),
        ({"rotary_emb_theta": 500}, {"rotary_emb_base": 500}),
        ({"adam_eps": 1e-6}, {"optimizer": {"params": {"eps": 1e-6}}}),
        ({"mlp_type": "regular"}, {}),
        ({"mlp_type": "llama", "activation": "swiglu"}, {"activation": "swiglu"}),
    ],
)
def test_an_old_name_is_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    ours, theirs = run(**old), run(**new)
    for part in ("model", "optimizer", "checkpoint", "generation", "log"):
        assert getattr(ours, part) == getattr(theirs, part)


def test_two_files_of_texts() -> None:
    """Some YAMLs of 2021 name both."""
    assert run(genfile="a", sample_output_file="a").notes == run(genfile="a").notes == ()
    (note,) = run(genfile="a", sample_output_file="b").notes
    assert note == "genfile changes nothing: sample_output_file is b"


def test_paths_of_single_datasets() -> None:
    paths = {f"{split}_data_path": split for split in ("train", "valid", "test")}
    assert run(**paths).data.source("valid").paths == ("valid",)
    assert run(label_data_paths=["l"], **paths).data.train.labels == ("l",)


def test_the_gated_mlp_of_llama_as_neox_had_it() -> None:
    """LLaMAParallelMLP: 8/3 of the hidden size, rounded up to 256, or exactly intermediate_size."""
    llama = {"mlp_type": "llama", "activation": "silu", "hidden_size": 4096}
    mlp = run(**llama, num_attention_heads=32).model.mlp
    assert (mlp.size, mlp.activation, mlp.gated, mlp.bias) == (11008, "silu", True, False)
    assert run(**llama, intermediate_size=14336).model.mlp.size == 14336
    assert run(mlp_type="llama", activation="swiglu").model.mlp.bias
    (note,) = run(mlp_type="llama", activation="swiglu").notes
    assert note == "mlp_type: llama changes nothing with the gated swiglu, as in NeoX"
    assert "mlp_type llama has none" in error(**llama, expansion_factor=3.5)


def test_old_names_must_agree_with_new_ones() -> None:
    agree = "they are one setting, keep one of the two"
    line = error(save_interval=5, checkpoint_factor=6)
    assert line == f"checkpoint_factor is 6 but save_interval is 5: {agree}"
    line = error(rms_norm=True, norm="layernorm")
    assert line == f"norm is layernorm but rms_norm is rmsnorm: {agree}"
    assert "rms_norm: found 1 (int), expected bool" in error(rms_norm=1)


def test_the_present_name_is_proposed() -> None:
    assert "did you mean checkpoint_factor?" in error(save_intervall=5)
    assert "did you mean optimizer.params.eps?" in error(adam_epsilon=5)


def test_set_by_an_old_name_sets_the_new_one() -> None:
    assert apply_set({}, ["save-interval=5", "rms-norm=true"]) == {
        "checkpoint_factor": 5,
        "norm": "rmsnorm",
    }
    assert apply_set({"save_interval": 5}, ["checkpoint_factor=7"]) == {"checkpoint_factor": 7}
    assert apply_set({"norm": "scalenorm"}, ["rms_norm=false"]) == {"norm": "scalenorm"}


def test_each_old_name_says_until_when() -> None:
    for name, key in RENAMED.items():
        fate = key.fate
        note = fate.note if not isinstance(fate, Used) or fate.by is None else ""
        assert "20" in note and KEYS[name] is key, name


def test_a_yaml_of_2022(shared: pathlib.Path) -> None:
    keys = load_yaml([shared / "cases/yaml_save_interval/old.yml"])
    assert Settings(keys).resolve(dp=1, vocab_size=256).checkpoint.every is not None
