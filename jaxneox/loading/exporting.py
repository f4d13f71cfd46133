"""A model in memory as a run, as a folder of Hugging Face's, and on its hub."""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from jaxneox.config import saved_keys
from jaxneox.console.hints import command
from jaxneox.console.text import markdown
from jaxneox.errors import UserError
from jaxneox.run_folder import on_disk
from jaxneox.saver import Saver, save_config

if TYPE_CHECKING:
    from jaxneox.loading.model import LoadedModel

CARD = """\
---
library_name: transformers
pipeline_tag: {task}
---

# {name}

{architecture} with {parameters:,} parameters: {layers} layers of {hidden}, {heads} heads, a context
of {context} tokens and a vocabulary of {vocabulary}.

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
```

It was written by jaxneox {version} from a checkpoint of its own. `certificate.md` says how each
tensor was written, and that both compute the same function.
"""


def save(model: "LoadedModel", path: Path) -> Path:
    """Save a model as a run at step 0; see `LoadedModel.save`."""
    folder = on_disk(path)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is there already; give a folder that does not exist yet")
    keys = saved_keys(model.config)
    save_config(folder, yaml.safe_dump(keys, sort_keys=False))
    if model.tokenizer is not None:
        model.tokenizer.save(folder / "tokenizer")
    meta = {"keys": keys} | ({"conversion": model.conversion} if model.conversion else {})
    saver = Saver(folder)
    saver.save(0, model._params, None, meta)
    saver.wait()
    saver.close()
    return folder


def to_hf(model: "LoadedModel", path: Path, dtype: str) -> Path:
    """Write a model as Hugging Face's; see `LoadedModel.to_hf`."""
    from convert.conversion import make
    from convert.hf.target import HfTarget
    from convert.ours.source import JaxneoxSource

    if model.config.model.lora is not None:
        merge = command("convert", "merge-adapter", "RUN", "DST")
        raise UserError(
            f"{path}: the model has LoRA's matrices beside its own, which transformers lacks: make "
            f"one model of both with `{merge}` and load that"
        )
    beside = path.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".jaxneox-") as folder:
        source = JaxneoxSource(save(model, Path(folder) / "run"), None)
        source.kept = False
        make(
            path,
            lambda: source,
            lambda source: HfTarget(source, dtype=dtype),
            verify=True,
            by="jaxneox.LoadedModel.to_hf",
        )
    return path


def push(model: "LoadedModel", repo: str, *, private: bool, dtype: str) -> str:
    """Put a model on the hub; see `LoadedModel.push`."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise UserError("push needs `pip install huggingface_hub`") from error
    with tempfile.TemporaryDirectory(prefix="jaxneox-") as folder:
        out = to_hf(model, Path(folder) / "model", dtype)
        (out / "README.md").write_text(card(model, repo))
        api = HfApi()
        try:
            address = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=out)
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{repo}: the hub did not take it ({reason[:300]})") from error
    return str(address)


def card(model: "LoadedModel", repo: str) -> str:
    """Write the model card, in Markdown."""
    cfg = model.config.model
    rewards = cfg.head == "reward"
    return CARD.format(
        task="text-classification" if rewards else "text-generation",
        auto=f"AutoModelFor{'SequenceClassification' if rewards else 'CausalLM'}",
        name=markdown(repo.rpartition("/")[2]),
        repo=repo,
        architecture=markdown(model.conversion.get("from", "A GPT-NeoX model")),
        parameters=sum(w.size for w in model._params.values()),
        layers=cfg.num_layers,
        hidden=cfg.hidden_size,
        heads=cfg.attention.num_heads,
        context=cfg.seq_length,
        vocabulary=cfg.vocab_size,
        version=importlib.metadata.version("jaxneox"),
    )
