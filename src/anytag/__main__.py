"""`python -m anytag` is the command `anytag`."""

from anytag.cli import main

if __name__ == "__main__":
    main(prog_name="anytag")
