"""Chat templates, which are programs that come with the checkpoints of strangers.

A template is Jinja, and jinja2's sandbox keeps it from files and from Python's inside; but it may
run for ever or fill the memory. So it is compiled and rendered in a process of its own, which the
system stops at a limit of time or memory.

- `limited`: renders conversations in that process; for everybody who has a foreign template.
- `child`: the program that runs there.
- `jinja`: a template rendered as transformers does.
- `source`: which template a tokenizer has; `prompts`: conversations as tokens of a model.
"""
