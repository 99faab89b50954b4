"""`python -m search`: the command line without installing anything."""

from search.cli import command

if __name__ == "__main__":
    command()
