"""Keys of NeoX's past in HEAD's names: the same run, and nothing that HEAD would not know."""

import pytest

from jaxneox.config.check import CheckedKeys
from jaxneox.config.fates import Alias
from jaxneox.config.keys.past import REMOVED, RENAMED
from jaxneox.config.present import in_present_names

VALUES = {int: 3, float: 0.5, bool: True, str: "here"}
ALIASES = [name for name, key in RENAMED.items() if isinstance(key.fate, Alias)]


def example(name: str):
    kind = RENAMED[name].kind
    if name.endswith("_paths"):
        return ["here"]
    return VALUES[getattr(kind, "of", kind)]


@pytest.mark.parametrize("name", ALIASES)
def test_a_renamed_key(name: str) -> None:
    block, _, last = name.rpartition(".")
    keys = {name: example(name)}
    if block:
        keys = {"optimizer": {"type": "Adam", "params": {last: example(name), "lr": 1e-3}}}
    present = in_present_names(keys)
    fate = RENAMED[name].fate
    assert isinstance(fate, Alias)
    assert CheckedKeys(present)[fate.of] == CheckedKeys(keys)[fate.of]
    assert name not in present
    if block:
        assert present["optimizer"]["params"] == {"lr": 1e-3}
        assert last in keys["optimizer"]["params"], "the caller's keys are left as they are"


def test_what_means_nothing_any_more_is_left_out() -> None:
    keys = {"hidden_size": 8, "cpu_torch_adam": True, "bf16": {"enabled": True, "bf16": True}}
    assert in_present_names(keys) == {"hidden_size": 8, "bf16": {"enabled": True}}
    assert "cpu_torch_adam" in REMOVED and in_present_names({"rms_norm": False}) == {}


def test_a_null_under_the_present_name_gives_way() -> None:
    assert in_present_names({"checkpoint_factor": None, "save_interval": 5}) == {
        "checkpoint_factor": 5
    }
    assert in_present_names({"optimizer": None, "adam_eps": 1e-6}) == {
        "optimizer": {"params": {"eps": 1e-6}}
    }
