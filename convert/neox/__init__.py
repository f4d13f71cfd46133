"""GPT-NeoX's checkpoints: how k ranks become one function, and one function becomes k ranks.

In:   source (a run, its ranks merged while it is read)
      consistency (the tensors held against the YAML: missing, extra, misshapen)
      plan, merge (how far copies have drifted, and what becomes of each: a sum, a fold, a mean)
      merged_dtypes (the types of what was merged)
      join (ranks' tensors -> parameters, folds applied; the account of every element)
      checkpoint (the merged model, the function of the ranks, the merges that NeoX has had)
      account (tensors without effect, facts for the certificate)
      training_in, training_keys_in (Adam's state, and the keys that go with it)
      tokenizer_in (the tokenizer that the YAML names)
Out:  target (files, YAML, what NeoX checks when it loads)
      grid (the ranks and stages, and what they cannot compute)
      split, unfold (parameters -> ranks' tensors, biases divided, folded biases given back)
      training_out (Adam's state and the keys by which NeoX goes on)
      tokenizer_out (a tokenizer as NeoX can open it)
"""
