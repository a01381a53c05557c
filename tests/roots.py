"""Bare roots of Debian releases with python3 and git, each made once and kept: those of tests/fresh."""

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

FRESH = Path(__file__).resolve().with_name("fresh")


def _fresh() -> ModuleType:
    """tests/fresh, which is a command and so has no suffix."""
    loader = SourceFileLoader("fresh", str(FRESH))
    spec = spec_from_loader("fresh", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def suites() -> list[str]:
    """The supported releases, that which this machine is not first."""
    fresh = _fresh()
    return sorted(fresh.RELEASES, key=lambda name: bool(name == fresh.own_release()))


def bare_root(suite: str) -> Path:
    """The root of ``suite``. It is used below an overlay, never itself."""
    return Path(_fresh().bare_root(suite))


def archives(suite: str) -> Path:
    """Where packages that apt fetched for ``suite`` are kept."""
    path = bare_root(suite).with_name(f"{suite}.archives")
    path.mkdir(exist_ok=True)
    return path
