"""NeoX's runs with muP: what they computed is proved, and their training comes along."""

from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch", reason="NeoX's files are read with torch")

from convert import fold_mup, from_neox, to_neox  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from jaxneox.config import Settings, load_yaml  # noqa: E402
from jaxneox.config.widths import Multipliers, Widths  # noqa: E402
from tests.convert.commands import call, run  # noqa: E402

LEFT_OUT = ("_paths", "vocab_file", "load", "base_shapes_file")


def config_of(golden: Path, case: str, tmp_path: Path, **changes: Any) -> Path:
    keys = load_yaml([golden / case / "neox_config.yml"])
    shapes = golden / case / keys["base_shapes_file"]
    keys = {name: value for name, value in keys.items() if not name.endswith(LEFT_OUT)}
    file = tmp_path / "neox.yml"
    file.write_text(yaml.safe_dump(keys | {"base_shapes_file": str(shapes)} | changes))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "output", "doubled"),
    [
        ("mup_tied_pp1_mp1", 0.5, None),
        ("mup_untied_mp2", 1.0, {"layers.attention.out_bias": 2.0, "layers.mlp.down_bias": 2.0}),
    ],
)
def test_a_run_with_its_training(
    shared: Path, tmp_path: Path, case: str, output: float, doubled: dict[str, float] | None
) -> None:
    golden = shared / "golden" / "neox_posttrain"
    config, source = config_of(golden, case, tmp_path), golden / "common/ckpt" / case
    said = call(from_neox, source, tmp_path / "run", "--config", config, "--optimizer")
    assert "the same function" in said.out.splitlines()
    opened = open_jaxneox(tmp_path / "run")
    assert opened.model.multipliers == Multipliers(output=output)
    cfg = Settings(opened.keys).resolve(dp=1, vocab_size=None)
    assert cfg.optimizer.widths == Widths(2.0, 2.0, 2.0, as_neox=True)
    # of the group that is not scaled: the hidden matrices' are 0.0005 and 0.2
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (0.001, 0.1)
    assert opened.keys.get("lr_factors") == doubled
    assert "convert fold-mup" in run(to_neox, tmp_path / "run", tmp_path / "no").error


@pytest.mark.slow
def test_a_plain_model_of_it_goes_back(shared: Path, tmp_path: Path) -> None:
    golden, case = shared / "golden" / "neox_posttrain", "mup_tied_pp1_mp1"
    config, source = config_of(golden, case, tmp_path), golden / "common/ckpt" / case
    call(from_neox, source, tmp_path / "run", "--config", config, "--no-verify")
    said = call(fold_mup, tmp_path / "run", tmp_path / "plain")
    assert said.out.startswith("final_norm.bias, final_norm.scale multiplied, exactly")
    assert "the same function" in call(to_neox, tmp_path / "plain", tmp_path / "back").out


def test_base_shapes_that_are_not_there(shared: Path, tmp_path: Path) -> None:
    golden, case = shared / "golden" / "neox_posttrain", "mup_untied_mp1"
    config = config_of(golden, case, tmp_path, base_shapes_file="nowhere/shapes")
    said = run(from_neox, golden / "common/ckpt" / case, tmp_path / "run", "--config", config)
    assert "base_shapes_file nowhere/shapes: there is neither" in said.error
