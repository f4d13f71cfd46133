"""jaxneox's own runs as the source or the target of a conversion.

- `source`, `target`.
- `base`: the model beside which an adapter stands; `merged`: both as one source.
- `folded`: a model whose weights have its multipliers.
- `next_command`: what a user does after a conversion.
- `training_placeholders`: how to train on a model whose files do not say how it was trained.
- `program`: jaxneox itself, for the proof.
"""
