"""One command that tries this code on a GPU: checks, speed, and the paper's CIFAR-10 runs (docs/gpu.md)."""
