"""The operations that forward passes are made of: one function per op, device and dtype chosen below it."""
