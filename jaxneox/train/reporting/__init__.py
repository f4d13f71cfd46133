"""Shows a run by figures, progress, plots and text.

- `reporter`: takes each step's figures from the device, and hands them to the others.
- `metrics`: metrics.jsonl, TensorBoard and W&B; `progress`: the terminal; `plot`: the loss curve.
- `callbacks`: what functions of one's own are told.
- `spikes`: steps whose losses stand far above those before.
- `summary`: what is printed before the steps and after them.
- `learning_rate`: the schedule in words, and against that of the checkpoint that goes on.
- `sample`: a few lines of text from the trained model.
"""
