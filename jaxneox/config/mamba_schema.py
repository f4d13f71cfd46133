"""The settings of the layers of kind `mamba`, a selective state space."""

from dataclasses import dataclass

from jaxneox.errors import UserError


@dataclass(frozen=True)
class MambaConfig:
    """The sizes and biases of a selective state space (Gu and Dao 2023).

    The channels form groups of equal size, in their order. Step sizes, B and C of a group's
    channels are computed from these channels alone. One group is the usual Mamba; GPT-NeoX at
    model_parallel_size P computes P groups.
    """

    channels: int
    step_rank: int  # between the channels and their step sizes
    state_size: int = 16
    conv_width: int = 4
    groups: int = 1
    conv_bias: bool = True
    bias: bool = False  # of the matrices from and to the residual stream, and of the selection
    selective_fp32: bool = True  # A and D are not rounded to the type of the computation

    def __post_init__(self) -> None:
        if self.channels % self.groups:
            raise UserError(
                f"mamba_groups {self.groups} does not divide the {self.channels} channels of a "
                "mamba layer: change it, or intermediate_size or expansion_factor"
            )

    @property
    def selection(self) -> int:
        """How many numbers a group selects for a token: a low-rank step size, B and C."""
        return self.step_rank + 2 * self.state_size
