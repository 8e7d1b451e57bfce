"""`python -m synthmed`, the same program as `synthmed`."""

from synthmed.cli.app import main

if __name__ == "__main__":
    main()
