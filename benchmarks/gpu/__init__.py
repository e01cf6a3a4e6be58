"""What coordination costs on one GPU: ``python -m benchmarks.gpu``."""
