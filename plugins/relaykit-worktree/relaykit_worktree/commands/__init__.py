"""The commands of relaykit-worktree."""
