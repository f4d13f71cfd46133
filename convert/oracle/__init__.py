"""The forward pass of a checkpoint in float64, by which a conversion is proved.

`NeoxForward` computes what GPT-NeoX computed, its k model-parallel ranks side by side, from its own
tensors; `MegatronForward` does the same for Megatron-LM, and `JaxneoxForward` computes the function
of our parameters. All use numpy alone and know neither the JAX model nor the rules of conversion:
if two agree, the conversion kept the function.

- `neox`, `megatron`, `jaxneox`: these three; `neox_shard`: one rank of NeoX's.
- `forward`: what a forward pass is, and how one is run layer by layer.
- `experts`: mixtures of experts.
- `mamba`: a selective state space of one rank or group.
- `maths`: norms, positions, attention and activations in float64.
"""

from convert.oracle.forward import Forward, run
from convert.oracle.jaxneox import JaxneoxForward
from convert.oracle.megatron import MegatronForward
from convert.oracle.neox import NeoxForward

__all__ = ["Forward", "JaxneoxForward", "MegatronForward", "NeoxForward", "run"]
