"""Text from a checkpoint: `jaxneox generate`.

- `command`, `arguments`: the command and its options.
- `prompts`: prompts from files; `interactive`: from the keyboard.
- `write`: answers on the terminal and in a file.

The text itself comes from `jaxneox.infer`.
"""
