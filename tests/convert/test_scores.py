"""`convert.scores` on what NeoX wrote: its perplexity, ours, and what its old merges cost."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert.scores import main
from tests.convert.golden import find_case


@pytest.mark.slow
def test_ours_is_neoxs_and_the_old_merges_are_not(tmp_path: Path, capsys) -> None:
    golden = find_case("pythia_mp2_drift")
    windows = np.concatenate([golden.tokens, golden.arrays["labels"][:, -1:]], axis=1)
    np.savez(tmp_path / "w.npz", windows=windows)
    words = [golden.folder, "--perplexity", tmp_path / "w.npz", "--output", tmp_path / "out.json"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    assert "NeoX, in float64" in out and "warning" not in out + err
    base = json.loads((tmp_path / "out.json").read_text())
    neox, ours, *merges = (one["perplexity"][0]["perplexity"] for one in (base, *base["compared"]))
    # NeoX's logits are float32 of its own order of sums; measured 4e-8
    assert neox == pytest.approx(golden.perplexity, rel=1e-6)
    assert ours == pytest.approx(neox, rel=1e-6)
    assert len(merges) == 3 and all(abs(other / neox - 1) > 1e-4 for other in merges)


def test_a_file_that_is_not_there(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--perplexity", str(tmp_path / "none.txt")])
    assert ended.value.code == 2 and "none.txt: no such file" in capsys.readouterr().err
