"""`python -m orchestra`: the same as the command `orchestra`."""

from orchestra.cli.main import main

if __name__ == "__main__":
    main()
