"""``python -m optgeom``: the command line."""

from optgeom.cli import main

if __name__ == "__main__":
    main()
