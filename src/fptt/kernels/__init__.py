"""Kernels for a GPU, in Triton, of what is slow there in torch's own: LTC neurons step by step and several steps at once."""
