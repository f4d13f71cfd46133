"""A conversation with a model in the terminal: `jaxneox chat`.

- `command`, `arguments`: the command and its options.
- `session`: the turns so far, and the next answer.
- `keyboard`: what is typed, or comes through a pipe.
- `interrupts`: Ctrl-C ends an answer, and not the conversation.

The template is rendered by `jaxneox.templates`; the text comes from `jaxneox.infer`.
"""
