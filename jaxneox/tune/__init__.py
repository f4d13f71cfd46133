"""`jaxneox tune MODEL DATA`: from a pretrained model and a file to the model one wants.

- `command`: its options, and what it does in order.
- `data`: a file of conversations, prompts or texts as datasets to train on and to look at.
- `templates`: chat templates by name, for models that have none.
- `choices`: length, batch, rate and steps by stated rules, as the YAML of a run.
- `watching`: the best checkpoint, and when to stop.
- `report`: what is printed before and after.
"""
