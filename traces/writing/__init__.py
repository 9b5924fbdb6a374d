"""From records to files, here or in an object store."""
