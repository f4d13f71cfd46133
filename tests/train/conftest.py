"""The cache of tokenized text lies in the tests' own folder."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNEOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
