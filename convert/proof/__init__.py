"""Two checkpoints held against each other, and the certificate that tells of it.

- `case`: two checkpoints to be proved, and the tolerance.
- `compare`: their numbers and functions, of which `architectures` (the settings that differ),
  `follow` (both functions, layer by layer), `sides` (each in a thread), `numbers` (parameter by
  parameter), `logits` (end to end), `program` (what a user runs) and `sample` (the text) are parts;
  `result` is what they find.
- `conclude`: the verdict.
- `certificate`: the record; for a person `page`, of `blocks` in Markdown and `ends` (how
  far whole models are apart), and `picture`.
"""
