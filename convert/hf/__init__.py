"""Models of Hugging Face's transformers as the source or the target of a conversion.

families (an entry for each architecture), of the types in family; config (config.json <->
ModelConfig) with activations, rope, windows, agreed (values that two keys must share) and
keys_without_a_field; choice (which architecture has exactly a model's function); source, target;
tokenizer; download (a model of the hub); program (transformers itself, for the proof).
"""
