"""What is done with whole traces: verified, repaired, compacted, exported, uploaded."""
