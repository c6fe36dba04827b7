"""What the gateway adds to the ``relaykit`` command: a module a command, with nothing heavy at its top."""
