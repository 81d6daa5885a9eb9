"""Benchmarks: `python -m benchmarks.report` for a CPU, `python -m benchmarks.gpu` for a GPU; see README.md here."""
