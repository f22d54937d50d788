__version__ = "0.6.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import Run, compare, drive, evaluate, load_run, prepare, train

__all__ = ["Run", "compare", "drive", "evaluate", "load_run", "prepare", "train"]


def __getattr__(name):
    "The names of `__all__` are those of `dnerf.api` (nbs/81_api.ipynb), which is loaded when the first of them is used."
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'dnerf' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
