"""``python -m whorl``: the command ``whorl``, where the folder of scripts is not on the path."""

from whorl.cli import main

if __name__ == "__main__":
    main()
