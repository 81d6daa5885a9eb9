"""How many cases the generators make: few by default, as many as `--cases` says by hand."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=20)


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """The number of cases of each generator."""
    return request.config.getoption("--cases")
