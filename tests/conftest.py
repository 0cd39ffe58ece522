"""Fixtures that every test may ask for; the real servers are in ``tests.servers``."""

pytest_plugins = ["tests.servers"]
