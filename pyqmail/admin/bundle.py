"""What programs that start once per message import, a file for each in the installed library (pyqmail/launch.py).

The search for its modules was a tenth of all that such a program cost, and to load one by one what was found another.
"""

import subprocess
from pathlib import Path

from pyqmail.launch import BUNDLED, BUNDLES

# What a program imports once it runs, in an ordinary run, with all that this imports; one that is not named imports
# nothing more. What else it may need is found as files. The tests of cold starts hold it so.
CLIENT = ("pyqmail.control", "pyqmail.intake.client", "pyqmail.envelope")
LATER = {
    "pyqmail.programs.condredirect": CLIENT,
    "pyqmail.programs.dot_forward": CLIENT,
    "pyqmail.programs.fastforward": CLIENT,
    "pyqmail.programs.forward": CLIENT,
    "pyqmail.programs.preline": ("pyqmail.system.files",),
    "pyqmail.programs.qmail_inject": ("pyqmail.envelope",),
    "pyqmail.programs.sendmail": ("pyqmail.intake.inject", "pyqmail.envelope"),
}
# Each program is imported by a child, which notes in which order the modules were ready. Their code is what was
# compiled already. What was written is read back: a full disk may have cut it.
WRITE = """
import marshal, os, sys
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER, cache_from_source
library, folder, words = sys.argv[1], sys.argv[2], sys.argv[3:]
sys.path.insert(0, library)
from pyqmail import launch
launch.defer_inspect()
ready = []
execute = SourceFileLoader.exec_module
def exec_module(loader, module):
    execute(loader, module)
    if module.__name__.startswith("pyqmail."):
        with open(cache_from_source(module.__file__), "rb") as compiled:
            code = marshal.loads(compiled.read()[16:])
        ready.append((module.__name__, code, hasattr(module, "__path__")))
SourceFileLoader.exec_module = exec_module
os.mkdir(folder)
for word in words:
    program, *later = word.split(",")
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            sys.exit(1)
        continue
    for name in (program, *later):
        __import__(name)
    with open(f"{folder}/{program}", "wb") as file:
        file.write(MAGIC_NUMBER + marshal.dumps(ready))
    with open(f"{folder}/{program}", "rb") as file:
        marshal.loads(file.read()[len(MAGIC_NUMBER):])
    os._exit(0)
"""


def write_bundles(library: Path, python: str) -> bool:
    """Write the bundles of ``library``, which is compiled for ``python``; False when they cannot be written."""
    programs = [",".join((program, *LATER.get(program, ()))) for program in sorted(BUNDLED)]
    words = [python, "-ISBc", WRITE, str(library), str(library / "pyqmail" / BUNDLES), *programs]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
