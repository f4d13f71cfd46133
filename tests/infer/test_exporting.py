"""Weights that were edited in Python, as a run, as Hugging Face's, and on its hub."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxneox
from jaxneox.errors import UserError
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker

TOKENS = np.arange(12)[None]


@pytest.fixture(scope="module")
def edited() -> LoadedModel:
    model = speaker()
    weight = model.params["unembed.weight"]
    return model.with_params({**model.params, "unembed.weight": -2 * weight})


def test_a_saved_model_is_the_model(edited: LoadedModel, tmp_path: Path) -> None:
    folder = edited.save(tmp_path / "run")
    again = jaxneox.load(folder)
    assert jnp.array_equal(again(TOKENS), edited(TOKENS))
    assert (
        again.generate("the", max_tokens=4)[0].text == edited.generate("the", max_tokens=4)[0].text
    )
    with pytest.raises(UserError, match="is there already"):
        edited.save(folder)


@pytest.mark.slow
def test_one_on_a_mesh_is_saved_whole(tmp_path: Path) -> None:
    model = speaker("dp=2,tp=2", padded_vocab_size=641)
    again = jaxneox.load(model.save(tmp_path / "run"))
    assert all(np.array_equal(again.params[n], w) for n, w in model.params.items())


def test_it_goes_to_hugging_face_with_its_certificate(edited: LoadedModel, tmp_path: Path) -> None:
    folder = edited.to_hf(tmp_path / "hf")
    page = (folder / "certificate.md").read_text()
    assert "**The same function" in page
    assert "The source was a model in memory, which is gone" in page
    assert ".jaxneox-" not in page + (folder / "certificate.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    found = jaxneox.load(folder)(TOKENS)
    np.testing.assert_allclose(found, edited(TOKENS), atol=1e-5)


def test_the_hub_gets_it_with_a_card(
    edited: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    sent: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo: str, **options: Any) -> str:
            sent.update(repo=repo, **options)
            return f"https://huggingface.co/{repo}"

        def upload_folder(self, repo_id: str, folder_path: Path) -> None:
            sent["files"] = {path.name for path in folder_path.iterdir()}
            sent["card"] = (folder_path / "README.md").read_text()

    monkeypatch.setattr(hub, "HfApi", Api)
    assert edited.push("me/my_model") == "https://huggingface.co/me/my_model"
    assert (
        sent["private"] and {"model.safetensors", "config.json", "certificate.md"} <= sent["files"]
    )
    assert "# my_model\n" in sent["card"] and 'from_pretrained("me/my_model")' in sent["card"]


def test_a_hub_that_refuses_is_one_line(
    edited: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Api:
        def create_repo(self, *args: Any, **options: Any) -> str:
            raise OSError("no network\nat all")

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(UserError, match=r"^me/x: the hub did not take it \(no network\)$"):
        edited.push("me/x")
