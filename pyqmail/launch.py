"""Turns a program module into a process; the only reader of sys.argv and os.environb.

A launcher in bin/ names a module and a crash code. Whatever escapes from the module, its import included, becomes that
code: a traceback's own exit status 1 would be read as a permanent failure by both spawners.
"""

import os
import sys

COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")  # what PEP 538 writes into LC_CTYPE
BUNDLES = "bundles"  # beside this file, in an installed copy
BUNDLED = frozenset(  # programs that start once per message, and have nothing else to do than to come to an end
    f"pyqmail.programs.{name}"
    for name in (
        "bouncesaying",
        "condredirect",
        "dot_forward",
        "except_",
        "fastforward",
        "forward",
        "maildirmake",
        "preline",
        "qmail_inject",
        "sendmail",
    )
)


def load_bundle(module: str) -> None:
    """Load ``module`` with all that it imports in an ordinary run, in their order, out of one file beside this one.

    It begins with the magic number of the interpreter whose code it has; the rest is by marshal a list of names, codes,
    and whether each is a package (qmail-setup writes it). Without one, as in a checkout, imports find files, and so
    they do where /usr/bin/python3 has become another version since.
    """
    try:
        fd = os.open(f"{os.path.dirname(__file__)}/{BUNDLES}/{module}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        data = os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    import marshal
    from _frozen_importlib_external import MAGIC_NUMBER

    if data[: len(MAGIC_NUMBER)] != MAGIC_NUMBER:
        return
    for name, code, is_package in marshal.loads(memoryview(data)[len(MAGIC_NUMBER) :]):
        made = type(sys)(name)
        made.__file__ = code.co_filename
        if is_package:
            made.__path__ = [os.path.dirname(code.co_filename)]
        sys.modules[name] = made
        exec(code, made.__dict__)
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, made)


def defer_inspect() -> None:
    """Have inspect loaded when something of it is first used.

    dataclasses imports it for what none of ours needs, with 20 modules: 1.5 MiB in each family of processes, which each
    fork has to share, and 4 ms of each start.
    """
    if "inspect" in sys.modules:
        return
    module = type(sys)("inspect")

    def find(name: str) -> object:
        if sys.modules.get("inspect") is module:
            del sys.modules["inspect"]
        return getattr(__import__("inspect"), name)

    def get_annotations(of: object, **options: object) -> object:
        if options or not isinstance(of, type):
            return find("get_annotations")(of, **options)  # type: ignore[operator]
        return dict(of.__dict__.get("__annotations__", ()))

    def unwrap(of: object, **options: object) -> object:  # 3.14 asks of each member of a class with slots
        if options:
            return find("unwrap")(of, **options)  # type: ignore[operator]
        while hasattr(of, "__wrapped__"):
            of = of.__wrapped__
        return of

    vars(module).update(__getattr__=find, unwrap=unwrap)
    if sys.version_info < (3, 14):  # there dataclasses asks annotationlib
        vars(module)["get_annotations"] = get_annotations
    sys.modules["inspect"] = module


def caller_environment() -> dict[bytes, bytes]:
    """The environment as the caller passed it: without the LC_CTYPE that Python adds to a bare one (PEP 538)."""
    environ = dict(os.environb)
    if environ.get(b"LC_CTYPE") in COERCED:
        try:
            fd = os.open("/proc/self/environ", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            del environ[b"LC_CTYPE"]
            return environ
        try:
            data = b""
            while chunk := os.read(fd, 65536):
                data += chunk
        finally:
            os.close(fd)
        for entry in data.split(b"\0"):
            if entry.startswith(b"LC_CTYPE="):
                environ[b"LC_CTYPE"] = entry[9:]
                break
        else:
            del environ[b"LC_CTYPE"]
    return environ


def run(module: str, crash_exit: int = 111) -> None:
    """Import ``module``, run its ``main(argv, environ)`` and end the process with the code; never returns.

    The import is inside because a half-finished upgrade is an escape too.
    """
    code = crash_exit
    try:
        defer_inspect()
        if module in BUNDLED:
            load_bundle(module)
        program = __import__(module, fromlist=["main"])
        code = int(program.main([os.fsencode(arg) for arg in sys.argv], caller_environment()))
    except BaseException as error:  # nothing may escape: exit status 1 would bounce mail
        try:
            os.write(2, _complaint(error).encode("utf-8", "replace"))
        except BaseException:  # fd 2 may be closed, and memory short
            pass
    os._exit(code & 255)


def _complaint(error: BaseException) -> str:
    """What escaped: a line when it is a module of a group that was not installed, else the traceback."""
    if isinstance(error, ModuleNotFoundError):
        from pyqmail.dependencies import missing_module

        if cure := missing_module(error.name or ""):
            return f"{os.path.basename(sys.argv[0])}: fatal: the module {error.name} is not installed: run {cure}\n"
    import traceback

    return traceback.format_exc()


def launcher_text(module: str, crash_exit: int, python: str, package_path: str | None) -> str:
    """The whole text of the launcher of ``module``.

    ``package_path`` None means a checkout: the package lies beside bin/, and what it depends on in .deps/ beside it.
    """
    if package_path is None:
        path = "os.path.dirname(os.path.dirname(os.path.abspath(__file__)))"
        lines = f"    sys.path[:0] = [{path}, {path} + '/.deps']\n"
    else:
        lines = f"    sys.path.insert(0, {package_path!r})\n"
    return (
        f"#!{python} -ISXutf8\n"
        "import os, sys\n"
        "try:\n"
        f"{lines}"
        "    from pyqmail.launch import run\n"
        f'    run("{module}", {crash_exit})\n'
        "finally:\n"
        f"    os._exit({crash_exit})\n"
    )


def identify(path: str) -> str | None:
    """The module that the launcher at ``path`` runs, if it is one of this very copy of the package; else None.

    A warm parent serves a program itself only when this says so: a wrapper in its place, another implementation or
    another version is executed instead.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(fd)
    lines = text.split("\n")
    if len(lines) != 9 or not lines[0].endswith(" -ISXutf8"):
        return None
    call = lines[5].strip()
    if not call.startswith('run("pyqmail.programs.') or not call.endswith(")"):
        return None
    module, _, crash = call[5:-1].partition('", ')
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not crash.isdigit():
        return None
    python = lines[0][2 : -len(" -ISXutf8")]
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    if text == launcher_text(module, int(crash), python, package):
        return module
    if checkout == package and text == launcher_text(module, int(crash), python, None):
        return module
    return None


def is_launcher(path: str) -> bool:
    """Whether the file at ``path`` is a launcher, of whatever copy of the package."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        text = os.read(fd, 4096)
    except OSError:
        return False
    finally:
        os.close(fd)
    return text.split(b"\n", 1)[0].endswith(b" -ISXutf8") and b'run("pyqmail.programs.' in text
