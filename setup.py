"""Puts the documents and examples of a checkout into the wheel, as pyqmail/share, where qmail-setup finds them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent
DOCUMENTS = ("README.md", "INSTALL.md", "CHANGELOG.md", "LICENSE", "pyqmail/ARCHITECTURE.md", "pyqmail/PERFORMANCE.md")


class BuildWithShare(build_py):
    """The usual, and then share/."""

    def run(self) -> None:
        """Copy; the examples keep their execute bits."""
        super().run()
        share = Path(self.build_lib) / "pyqmail" / "share"
        shutil.rmtree(share, ignore_errors=True)
        shutil.copytree(TOP / "control-examples", share / "control-examples")
        for name in DOCUMENTS:
            (share / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, share / name)


setup(cmdclass={"build_py": BuildWithShare})
