"""GPT-NeoX's checkpoints: how k ranks become one function, and one function becomes k ranks.

- `rules.neox`: which tensor is which, in what layout, and which module of the Sequential is which
  layer.
- `readers.neox_files`, `readers.neox` (in); `writers.neox`, and `writers.neox_adam`, which knows
  the stage of each layer (out): the names and contents of files.

In:

- `source`: a run, its ranks merged while it is read; the keys as the files correct them, such as
  the padded vocabulary, are those of `readers.neox`.
- `consistency`: the tensors held against the YAML: missing, extra, misshapen.
- `merge`: decides what becomes of the copies that ranks have: a sum, a fold, a mean; how far they
  have drifted is measured by `fate.drift_of`. `plan`: the record of these decisions;
  `merged_dtypes`: the types of what was merged; `unmergeable`: ranks of which no single model has
  the function.
- `join`: ranks' tensors -> parameters, folds applied; the account of every element.
- `checkpoint`: the merged model, the function of the ranks, NeoX's own older merges.
- `account`: tensors without effect, facts for the certificate.
- `training_in`, `training_keys_in`: Adam's state, and the keys that go with it.
- `tokenizer_in`: the tokenizer that the YAML names.

Out:

- `target`: the YAML, what NeoX checks when it loads; the files by `writers.neox`.
- `grid`: the ranks and stages that are asked for, refused where NeoX cannot compute the function.
- `split`, `unfold`: parameters -> ranks' tensors, biases divided, folded biases given back.
- `training_out`: Adam's state and the keys by which NeoX goes on.
- `tokenizer_out`: a tokenizer as NeoX can open it.
"""
