"""Which tokens the i-th sample has: NeoX's and Megatron-core's orders as arrays of integers."""
