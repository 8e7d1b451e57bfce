"""The order of imports, and who may do what: read from the source, so that no import has to happen."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import synthmed

PACKAGE = Path(synthmed.__file__).parent

# A module imports from its own line or from lines above it. The first name that fits counts; a name stands for all
# that lies in it.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("runtime", "files", "config"),
    ("data.labels", "data.datasets", "formats"),
    ("data", "metrics", "plots"),
    ("phantoms",),
    ("features", "training"),
    ("generators",),
    ("production", "classifier"),
    ("evaluation", "study"),
    ("demo",),
    ("cli", "__main__", "synthmed"),
)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".") or "synthmed": path
    for path in sorted(PACKAGE.rglob("*.py"))
}


# A folder's own module holds a docstring and nothing else, but for the tables that a folder is opened by.
EMPTY = {name for name, path in MODULES.items() if path.name == "__init__.py" and "import " not in path.read_text()}


@cache
def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def level(name: str) -> int:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if found := [number for number, names in enumerate(LEVELS) if ".".join(parts[:end]) in names]:
            return found[0]
    raise AssertionError(f"{name} has no place in the order of imports: give it one in LEVELS")


def imports(name: str) -> Iterator[str]:
    """Yield everything that a module imports, with dots, also inside functions and for type checking alone.

    Of the package's own module what it imports when it is imported: the Python interface in it hands on to others.
    """
    for node in parse(name).body if name == "synthmed" else ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def own_imports(name: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for target in imports(name):
        if target.split(".")[0] != "synthmed":
            continue
        parts = target.split(".")[1:]
        # `from synthmed.a import b` means the module a.b, or the name b of the module a.
        while parts and ".".join(parts) not in MODULES:
            parts.pop()
        found.add(".".join(parts) or "synthmed")
    return found - EMPTY


@pytest.mark.parametrize("name", sorted(MODULES.keys() - EMPTY))
def test_imports_point_one_way(name: str) -> None:
    wrong = [target for target in own_imports(name) if level(target) > level(name)]
    assert not wrong, f"{name} imports {wrong}, which stand above it"


def test_no_imports_go_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"imports in a circle: {' -> '.join([*path, name])}"
        if name not in done:
            for target in sorted(own_imports(name)):
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_nobody_outside_knows_a_family() -> None:
    """But for the command on its first stage, and for the Python interface, which hands its types on."""
    allowed = {"cli.evaluate_autoencoder", "synthmed"}
    for name in MODULES:
        if not name.startswith("generators") and name not in allowed:
            inside = [target for target in own_imports(name) if target.startswith("generators.diffusion")]
            assert not inside, f"{name} imports {inside}"


def test_only_the_command_line_knows_typer_and_nobody_click() -> None:
    for name in MODULES:
        roots = {target.split(".")[0] for target in imports(name)}
        assert "click" not in roots, name
        assert "typer" not in roots or name.startswith("cli."), name


def test_nothing_that_runs_code_from_files_is_imported() -> None:
    dangerous = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name in MODULES:
        assert not {target.split(".")[0] for target in imports(name)} & dangerous, name
        for call in (node for node in ast.walk(parse(name)) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func)
            assert called not in ("eval", "exec"), name
            if called == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert words.get("weights_only") == "True", f"{name} calls torch.load without weights_only=True"


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_owns(name: str) -> None:
    assert ast.get_docstring(parse(name))


def test_only_the_command_line_writes_to_stdout() -> None:
    for name in MODULES:
        if name.startswith("cli."):
            continue
        for node in ast.walk(parse(name)):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("sys.stdout", "sys.__stdout__"), name
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "Console", "console.print"):
                targets = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert targets.get("file") == "sys.stderr" or targets.get("stderr") == "True", f"{name}:{node.lineno}"


HELP_OF_ALL_COMMANDS = """
import contextlib, io, sys
import typer.main
from synthmed.cli import app

def paths(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from paths(child, (*path, name))

for path in paths(typer.main.get_command(app.app)):
    sys.argv = ["synthmed", *path, "--help"]
    stdout = io.StringIO()
    try:
        with contextlib.redirect_stdout(stdout):
            app.main()
    except SystemExit as end:
        assert end.code == 0, path
    assert "Usage: synthmed " + " ".join(path) in stdout.getvalue(), stdout.getvalue()
    for heavy in (
        "torch", "timm", "torchvision", "torchmetrics", "webdataset", "matplotlib", "safetensors", "diffusers"
    ):
        assert heavy not in sys.modules, (path, heavy)
    print(" ".join(path))
"""


def test_help_of_every_command_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL_COMMANDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = done.stdout.splitlines()
    assert commands[0] == ""
    assert {"generate", "train-diffusion", "prepare airogs", "recipes show", "checkpoints add"} <= set(commands)
