"""A git worktree for each role, for relaykit; removal that loses no work."""
