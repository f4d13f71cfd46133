"""`jaxneox.load`: a checkpoint of any program as a model in Python.

- `load`: from a path to a model in memory; `adapters`: one base, and several adapters beside it.
- `model`: what is returned: a function of tokens, and a writer of text.
- `function`: its functions of arrays; `compiled`: these compiled; `pure`: under jit, grad and vmap.
- `resting`: parameters at rest, and arrays of one's own laid out so.
- `exporting`: a model as a run, as Hugging Face's, and on its hub.
"""

from jaxneox.loading.load import load_model, locate
from jaxneox.loading.model import LoadedModel

__all__ = ["LoadedModel", "load_model", "locate"]
