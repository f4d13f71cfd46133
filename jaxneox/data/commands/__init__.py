"""The commands `jaxneox data`: what data holds, and what a run sees of it.

- `inspect`: a dataset on one screen; `document`: one of its documents; `step`: a step of a run.
- `verify`: whether datasets are whole and within their vocabulary.
- `merge`: several datasets as one.
- `batch`: the global batches of a run as a file.
- `run_data`, `vocabulary`: the data and the tokenizer that a command is given.
- `scan`, `histogram`: all tokens seen once, and the lengths of documents as a picture.
"""
