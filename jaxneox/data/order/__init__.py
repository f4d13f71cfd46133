"""The tokens of the i-th sample: NeoX's and Megatron-core's orders as arrays of integers.

- `packed`: documents joined end to end, shuffled and cut; defines sample_idx and the other arrays.
- `whole_documents`: whole documents in a sample (`pack_until_overflow`, `unpacked`).
- `pairwise`: the same for pairs of documents.
- `blend`: which dataset gives sample i of a blend.
- `split`: which documents train, validate and test.
- `cache`: large arrays, kept on disk beside the data.
"""
