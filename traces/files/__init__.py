"""Where the files of a trace are, and how they are reached."""
