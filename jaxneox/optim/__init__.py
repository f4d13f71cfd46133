"""Learning-rate schedules and optimizers, as optax chains.

- `schedule`: the learning rate at each step.
- `optimizer`: NeoX's optimizers by name; `adam`: with or without the correction of its bias;
  `sm3`: SM3 as NeoX has it.
- `chain`: what their chains have in common; `mup`: muP's learning rates and decay.
- `trainable`: which parameters are trained.
- `clip`: clipping by the gradient's norm.
- `matrices`: shows optimizers NeoX's matrices, one layer at a time.
"""
