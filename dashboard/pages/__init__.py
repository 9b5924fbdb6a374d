"""One file per page: its layout, and what its callbacks return."""
