"""The command line. It parses and calls; it holds no logic."""

__all__ = ["main"]


def main() -> None:
    """Run ``whorl`` with the arguments of this process."""
    from whorl.cli.app import app

    app()
