"""The Python interface: what `import synthmed` offers, and that it costs nothing until it is used."""

import subprocess
import sys

import synthmed
from synthmed.errors import SynthmedError


def test_public_names_are_these():
    functions = {"load_generator", "load_pipeline", "open_shards"}
    types = {"Classes", "DiffusionSettings", "Family", "Generator", "Header", "Pipeline"}
    errors = {name for name in synthmed.__all__ if name.endswith("Error")} | {"Interrupted"}
    assert set(synthmed.__all__) == functions | types | errors | {"__version__"}
    for name in synthmed.__all__:
        assert getattr(synthmed, name) is not None


def test_every_exception_of_the_package_is_public():
    def below(cls: type) -> set[str]:
        children: list[type] = cls.__subclasses__()
        return {cls.__name__}.union(*map(below, children))

    assert {name for name in below(SynthmedError) if not name.startswith("_")} <= set(synthmed.__all__)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, synthmed; print(*(name for name in ('torch', 'numpy', 'PIL', 'typer') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
