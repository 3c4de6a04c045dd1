import pytest


@pytest.fixture(scope="session", autouse=True)
def annotation_cache(tmp_path_factory: pytest.TempPathFactory):
    """Parsed annotation files are kept here, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTPOSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
