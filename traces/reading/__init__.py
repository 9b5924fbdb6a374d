"""From the files of a trace to answers."""
