import pytest


@pytest.fixture(scope="session")
def here():
    from tests.serve.place import place

    with place() as found:
        yield found
