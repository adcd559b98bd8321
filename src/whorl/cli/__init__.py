"""The command line. It parses and calls; it holds no logic."""

__all__ = ["main"]


def main() -> None:
    """Run ``whorl`` with the arguments of this process."""
    import os

    # Waiting threads sleep: when other programs use the cores too, spinning ones make small steps many times
    # slower. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from whorl.cli import data, judge, learn, run  # noqa: F401  (each adds its commands)
    from whorl.cli.app import app

    app()
