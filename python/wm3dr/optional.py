"""Packages that are not installed with wm3dr: imported where they are used, with the command that installs them."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import and return an optional package.

    Parameters
    ----------
    module : str
        Name to import.
    extra : str
        The extra of wm3dr that installs it.

    Raises
    ------
    ImportError
        It is not installed; the message has the command.
    """
    package = module.split(".", maxsplit=1)[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # it is there, and lacks something of its own
        raise ImportError(f"{package!r} is not installed: pip install 'wm3dr[{extra}]'", name=package) from error
    return importlib.import_module(module)
