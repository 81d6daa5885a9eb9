"""How much of each generator is run."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=20, help="how many seeded cases each fuzz test runs")


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """How many cases a test runs, each from its own seed, 0 and up."""
    return request.config.getoption("--cases", 20)
