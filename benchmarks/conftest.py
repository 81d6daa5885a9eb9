"""Fixtures of the benchmarks; pytest-benchmark writes the measurements with `--benchmark-json`."""

from benchmarks.paired import compare as compare
