from pathlib import Path


def pytest_ignore_collect(collection_path, config):
    """The tests of this package are its own: they run where it is the root."""
    return True if config.rootpath != Path(__file__).parent else None
