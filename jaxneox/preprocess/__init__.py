"""Turns text into `.bin/.idx`, byte for byte as NeoX's tools write it: `jaxneox preprocess`.

The parent reads the input as `data.documents` chunks, worker processes encode them, and the parent
appends what comes back, in order, to files in a hidden folder beside the output. What is on disk
is noted every few seconds, so that a command that was killed goes on from there; the files get
their names when they are whole.

- `command`, `arguments`: the command and its flags; `recognition`: what the input is, where they
  do not say; `run`: its work.
- `workers`: the worker processes; `encode`: documents to tokens and labels.
- `chat`: rows of conversations; `conversations` makes tokens of them, which `jaxneox.templates`
  renders, and `turns` finds what is learned. `rewards`: the numbers beside them.
- `preferences`: pairs, rated answers and completions with rewards; `answers` reads their rows,
  `prompts` finds the prompt of a pair, `continuations` makes tokens of those that are texts.
- `output`: the datasets as they grow.
"""
