"""How the file of a table lies: written, and compared with its checksums before it is parsed."""
