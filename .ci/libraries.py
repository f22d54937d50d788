"What programs that fork processes for notebooks or draws load first."
import importlib
import pkgutil


def load(names) -> None:
    "Import libraries and all modules of the package, here, where no thread may begin: only then processes can be forked safely."
    for name in names:
        importlib.import_module(name)
    import dnerf
    for module in pkgutil.walk_packages(dnerf.__path__, "dnerf."):
        importlib.import_module(module.name)
