"""The command line's front: what all commands share between a user's words and the work.

- `parser`: help, grouped options and examples.
- `model_options`: the options of all commands that open a model.
- `execute`: runs a command, from its words to an exit status; errors become one line.
- `garbage`: Python's collector, which rests while a program starts.
- `hints`: commands as they are printed for the user to run next.
- `text`: text from files and users, made safe for a terminal, for Markdown and for HTML.
- `say`: prints such text; nothing else in a command prints.
- `progress`: a bar for long work; `waiting`: a line for any other that takes long.
- `units`: numbers as people read them; `columns`: tables of text.
- `outputs`: checks of an output file that are made before the work starts.
- `extras`: optional packages, and which extra brings each.
"""
