"""The command line. It parses and calls; it holds no logic."""

__all__ = ["main"]


def main() -> None:
    """Run ``whorl`` with the arguments of this process."""
    from whorl.cli import data, judge, learn, run  # noqa: F401  (each adds its commands)
    from whorl.cli.app import app

    app()
