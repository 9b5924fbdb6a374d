"""What a run will cost, before it is started: pure functions from settings, ranks and a machine."""
