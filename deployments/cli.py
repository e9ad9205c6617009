"""The `polychoir` command with everything in it: that of the flows, and what stands on the floor above them."""

from deployments import production_commands
from flows import cli


def main() -> None:
    """Entry point of the console script."""
    cli.app.add_typer(production_commands.app)
    cli.main()


if __name__ == "__main__":
    main()
