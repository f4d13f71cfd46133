"""PEFT's adapters opened by their path: converted into the cache once, and found there again."""

from pathlib import Path

import numpy as np
import pytest

import jaxneox
from convert import to_peft
from jaxneox import checkpoint
from jaxneox.data.cache import cache_root
from jaxneox.errors import UserError
from tests.convert.adapters import TOKENS, change_settings, write_adapter
from tests.convert.commands import call
from tests.convert.hf_models import LLAMA, write_run


@pytest.mark.slow
def test_it_opens_as_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    base, peft = tmp_path / "base", tmp_path / "peft"
    write_run(base, LLAMA)
    adapter = write_adapter(tmp_path / "adapter", base)
    call(to_peft, adapter, peft)
    expected = jaxneox.load(adapter)(TOKENS)
    capsys.readouterr()
    for _ in range(2):
        np.testing.assert_array_equal(jaxneox.load(base, adapter=peft)(TOKENS), expected)
    assert capsys.readouterr().err.count("an adapter of PEFT, converted to") == 1
    change_settings(peft, base_model_name_or_path=str(base))
    np.testing.assert_array_equal(jaxneox.load(peft)(TOKENS), expected)
    entries = [path for path in (cache_root() / "converted").iterdir() if path.is_dir()]
    assert len(entries) == 2  # beside the checkpoint's folder, and beside the run's
    change_settings(peft, use_dora=True)
    with pytest.raises(UserError, match="use_dora is True, which is DoRA: only plain LoRA"):
        jaxneox.load(base, adapter=peft)
    with pytest.raises(UserError, match=r"holds a PEFT checkpoint: convert it with .* from-peft"):
        checkpoint.find(peft)
    with pytest.raises(UserError, match="is an adapter; give the model"):
        jaxneox.load(adapter, adapter=peft)
