"""`jaxneox precompute`: a reference model's log-probabilities of whole datasets, before training.

A run with `precompute_model_name` reads them beside the data, and holds no reference model.

- `command`: the command.
- `texts`: the rows of texts of which a run needs them, and the files that they go to.
- `files`: whether these are there already.
- `logs`: computes and writes them.
"""
