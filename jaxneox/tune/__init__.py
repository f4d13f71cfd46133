"""`jaxneox tune MODEL DATA`: from a pretrained model and a file to the model one wants.

- `command`: its options, and what it does in order.
- `begun`: the run's `tune.yml`, by which the same command goes on.
- `setup`: all before training: the tokenizer, the datasets, and the keys of the run.
- `pretrained`: the model that is tuned.
- `kinds`: conversations, prompts, texts, pairs or rated answers: what a file holds, and how it
  becomes tokens.
- `templates`: the chat template: the model's own, the user's, or one by name.
- `datasets`: documents on disk, to train on and to look at.
- `choices`: length, batch, rate and steps by stated rules, as the YAML of a run.
- `watching`: the best checkpoint, and when to stop.
- `report`: what is printed before and after.
"""
