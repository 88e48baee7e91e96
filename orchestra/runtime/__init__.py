"""What drives a pipeline: sessions, git, worktrees, snapshots, checkpoints, the event log."""
