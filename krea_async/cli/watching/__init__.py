"""A batch that is run from the command line, as people and programs see it: progress, events, signals, the summary."""
