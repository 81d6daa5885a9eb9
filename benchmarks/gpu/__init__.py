"""Correctness, tuning and speed on one GPU, in one command: `python -m benchmarks.gpu --output DIR`.

It needs torch, triton and transformers, but no network and no installation. `--dry-run` runs the same script on the
CPU, with tiny sizes and in Triton's interpreter, so that it is known to work before GPU time is spent on it.

    __main__     the command, its deadlines, and what is left after a crash
    worker       the process that runs the cases
    cases        what is run, in which order, and how long each part may take
    operations   the kernels: their checks against float64, the tuning, the timings
    models       the models: their checks against transformers, the timings
    measure      clocks, rooflines, interleaved timing
    report       results.json and results.md
"""
