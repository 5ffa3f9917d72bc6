"""The ops' kernels for NVIDIA GPUs, in Triton: one file a kind of op, and `kernels` that calls them on tensors."""
