"""The GPT-NeoX family of models as functions of a flat dictionary of parameters.

The whole model:

- `hidden`: the forward pass to the last hidden states; `layers`: all layers of it, whose parameters
  `stack` stacks; `losses`: of the tokens, for training; `neox`: logits, scores and values of them;
  `in_steps`: a layer at a time.
- `parameters`: modules from and to the flat dictionary; `param` declares one weight on a line,
  and `draw` draws its first value.
- `layout`: the protocol by which the model asks how arrays lie on devices.

A layer:

- `block`: its three styles; `context`: what all layers of a forward pass share.
- `attention`: queries, keys, values and the output; `kernels/`: how they are mixed, and the masks.
- `ring`, `partial_softmax`: attention over a sequence that several devices hold in parts.
- `mlp`, `norms`, `dropout`; `multiplied`: activations times a constant.
- `experts/`: a mixture in the place of the MLP; `mamba/`: a selective state space in the place of
  attention and MLP.
- `product`, `gather`: products with weights, and weights made whole for them.
- `lora`: matrices of low rank beside a layer's; `low_rank`: the product with them.

Before and after the layers:

- `vocabulary`: its padding, where the devices do not divide it.
- `embed`, `positions`, `rope_scaling`: the embeddings; rotations and biases by position.
- `documents`: where each document of a row begins; the masks of `kernels/` stop there.
- `token_losses`: the loss of each token, for derivatives of any order.
- `label_losses`: the loss of each label, for losses of whole texts; `divergence`: from another
  model.
- `unembedding`: the matrix to logits, as it is stored and as it computes.
- `loss`, `scores`: cross-entropy, and how likely given tokens are, without whole logits.
- `remat`: what a layer keeps for its backward pass, and where.
- `taps`: activations by public names; `scan`: the scan over the layers, which keeps some of them.
- `decode`: prompts and next tokens, with a `cache`.
"""

from jaxneox.model.documents import Documents
from jaxneox.model.dropout import Noise
from jaxneox.model.hidden import InTraining
from jaxneox.model.layout import Layout
from jaxneox.model.neox import Model
from jaxneox.model.parameters import Params

__all__ = ["Documents", "InTraining", "Layout", "Model", "Noise", "Params"]
