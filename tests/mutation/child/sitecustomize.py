"""Measures the processes that tests start, while the map is made."""

import os

if "MUTATION_DATA" in os.environ:
    import atexit

    import coverage

    source = os.environ["MUTATION_SOURCE"].split(os.pathsep)
    measured = coverage.Coverage(
        os.environ["MUTATION_DATA"], data_suffix=True, context=os.environ["MUTATION_TEST"], config_file=False,
        source=source, messages=False,
    )  # fmt: skip
    measured.start()
    atexit.register(measured.save)
    atexit.register(measured.stop)
