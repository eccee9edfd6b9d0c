"""Run the `anytag` command with `python -m anytag`."""

from anytag.cli import main

if __name__ == "__main__":
    main(prog_name="anytag")
