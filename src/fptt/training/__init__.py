"""Running a task: the loop, checkpoints and what a run leaves on disk."""
