"""relaykit's fixtures."""

pytest_plugins = ["relaykit.testing.fixtures"]
