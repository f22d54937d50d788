"""`python -m dnerf` is the command `dnerf` (nbs/90_cli.ipynb)."""
import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
