"""The GPT-NeoX family of dense transformers as functions of a flat dictionary of parameters."""

from jaxneox.model.documents import Documents
from jaxneox.model.dropout import Noise
from jaxneox.model.layout import Layout
from jaxneox.model.neox import Model
from jaxneox.model.parameters import Params

__all__ = ["Documents", "Layout", "Model", "Noise", "Params"]
