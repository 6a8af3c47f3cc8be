"""The picture of the code: which module may import which, who prints, who knows the labels."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "drstool"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each layer may import from those after it, and from its own where that is said below.
LAYERS = ["cli", "stages", ("mapping", "inputs", "gallery", "figures", "exchange"), ("data", "reports"), "annotations",
          ("formats", "checkpoints", "training", "metrics"),
          ("models", "crf", "cues", "inference", "artifacts", "demo", "saliency"), "recipe",
          ("labels", "errors", "files", "identifiers", "parallel", "pickles", "pillow", "pixels", "png",
           "text")]
# Layers whose members may import each other, as long as there is no circle.
COHERENT = ("cli", "data", "annotations", "formats", "checkpoints", "training", "artifacts", "metrics", "models", "crf",
            "demo", "reports", "figures", "exchange")
# No room is more than this share of the lines.
LARGEST_ROOM = 0.15


def module_of(path):
    parts = ("drstool", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text(encoding="utf-8"), path) for path in FILES}
NAMES = [name for name in MODULES if name not in ("drstool", "drstool.__main__")]


def part(module):
    """The part of the picture a module lies in: ``drstool.formats.map_file`` in ``formats``."""
    return module.split(".")[1]


def rank(name):
    for number, layer in enumerate(LAYERS):
        if name == layer or name in layer and isinstance(layer, tuple):
            return number
    raise AssertionError(f"'{name}' is in no layer: add it to LAYERS")


def imported(module):
    """Full names of what a module imports, lazily or for types only as well."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def own(module):
    """What a module imports of drstool; the package itself only tells the version."""
    return {name for name in imported(module) if name.startswith("drstool.") and name != module}


def at_once(module):
    """What a module imports when it is imported itself, by the first part of the name."""
    found = set()
    for node in _running(MODULES[module].body):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def _running(body):
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            continue
        yield node


@pytest.mark.parametrize("module", NAMES)
def test_imports_point_down(module):
    here = part(module)
    upward = [name for name in own(module) if part(name) != here and rank(part(name)) < rank(here)]
    assert upward == []


@pytest.mark.parametrize("module", NAMES)
def test_only_coherent_parts_import_among_themselves(module):
    here = part(module)
    inside = [name for name in own(module) if part(name) == here and name != module]
    assert inside == [] or here in COHERENT


def test_no_circle_of_files():
    done, above = set(), []

    def visit(module):
        assert module not in above, " -> ".join([*above[above.index(module):], module])
        if module not in done:
            above.append(module)
            for name in sorted(own(module) & set(NAMES)):
                visit(name)
            done.add(above.pop())

    for name in NAMES:
        visit(name)


def test_no_room_is_larger_than_the_house_allows():
    lines = Counter()
    for path in FILES:
        lines[part(module_of(path) + ".")] += len(path.read_text(encoding="utf-8").splitlines())
    (room, most), *_ = lines.most_common(1)
    assert most <= LARGEST_ROOM * lines.total(), room


def functions():
    """Module, name, lines of the body without docstring, and number of parameters of every function."""
    for module in NAMES:
        for node in ast.walk(MODULES[module]):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                arguments = node.args
                yield module, node.name, lines, len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])


def test_functions_are_short_and_take_few_parameters():
    assert [each for each in functions() if each[2] > 45 or each[3] > 12] == []


def test_commands_are_thin():
    assert [each for each in functions() if each[0].startswith("drstool.cli.commands.") and each[2] > 25] == []


def test_stages_do_not_import_stages():
    stages = [name for name in NAMES if part(name) == "stages"]
    assert len(stages) > 8
    assert [name for stage in stages for name in own(stage) if part(name) == "stages"] == []


def test_models_and_formats_do_not_know_each_other():
    for here, there in (("models", "formats"), ("formats", "models")):
        assert [name for name in NAMES if part(name) == here and any(part(n) == there for n in own(name))] == []


def test_the_crf_knows_arrays_only():
    known = ("crf", "recipe", "errors", "pixels")
    parts = [name for name in NAMES if part(name) == "crf"]
    assert [name for name in parts if any(part(other) not in known for other in own(name))] == []


def test_drs_stands_alone():
    assert own("drstool.models.drs") == set()


def test_formats_data_and_small_parts_do_not_import_torch_at_once():
    light = ("cli", "formats", "artifacts", "reports", "cues", "metrics", "recipe", "labels", "errors", "files",
             "identifiers", "parallel", "pixels")
    heavy = {"torch", "torchvision"}
    assert [name for name in NAMES if part(name) in light and heavy & at_once(name)] == []
    light_data = [name for name in NAMES if part(name) == "data" and name != "drstool.data.transforms"]
    assert [name for name in light_data if heavy & at_once(name)] == []


def test_checkpoints_import_torch_late_and_formats_never():
    assert [name for name in NAMES if part(name) == "checkpoints" and {"torch", "torchvision"} & at_once(name)] == []
    users = [name for name in NAMES if part(name) in ("formats", "artifacts")
             and {"torch", "torchvision"} & {found.partition(".")[0] for found in imported(name)}]
    assert users == []


def test_recipe_needs_the_standard_library_only():
    import sys

    assert at_once("drstool.recipe") - {"drstool"} <= set(sys.stdlib_module_names)


def calls(module):
    """Dotted names of what a module calls."""
    return [ast.unparse(node.func) for node in ast.walk(MODULES[module]) if isinstance(node, ast.Call)]


def test_only_the_command_line_prints_and_exits():
    speaking = ("print", "sys.exit", "exit", "quit", "os._exit", "sys.stdout.write", "sys.stderr.write",
                "warnings.warn")
    assert [(name, call) for name in NAMES if part(name) != "cli" for call in calls(name) if call in speaking] == []


def numbers(module, value):
    return [node.lineno for node in ast.walk(MODULES[module])
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value == value]


def test_only_labels_knows_the_ignore_label():
    """255 elsewhere is the largest grey value: multiplied, divided, clipped, never a label."""
    suspects = []
    for name in NAMES:
        if part(name) == "labels":
            continue
        for node in ast.walk(MODULES[name]):
            compared = isinstance(node, ast.Compare) and any(_is_255(n) for n in (node.left, *node.comparators))
            assigned = isinstance(node, ast.Assign) and _is_255(node.value)
            passed = isinstance(node, ast.Call) and any(_is_255(k.value) and k.arg != "max" for k in node.keywords)
            if compared or assigned or passed:
                suspects.append((name, node.lineno, ast.unparse(node)[:60]))
    assert suspects == []


def _is_255(node):
    return isinstance(node, ast.Constant) and node.value == 255 and type(node.value) is int


def test_only_labels_makes_the_palette():
    shifts = [name for name in NAMES if part(name) != "labels" and "palette" in
              {node.name for node in ast.walk(MODULES[name]) if isinstance(node, ast.FunctionDef)}]
    assert shifts == []
    assert numbers("drstool.labels", 255)


def test_every_module_says_what_it_is():
    assert [name for name in NAMES if MODULES[name].body and not ast.get_docstring(MODULES[name])] == []


def test_every_public_name_exists():
    for name in NAMES:
        for node in MODULES[name].body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = ast.literal_eval(node.value)
                defined = _defined(MODULES[name].body)
                assert [entry for entry in listed if entry not in defined] == [], name


def test_what_formats_gives_out_is_imported_when_it_is_asked_for():
    import drstool.formats

    assert sorted(drstool.formats._PLACE_OF) == sorted(drstool.formats.__all__)
    assert all(getattr(drstool.formats, name).__name__ == name for name in drstool.formats.__all__)
    assert set(drstool.formats.__all__) <= set(dir(drstool.formats))
    with pytest.raises(AttributeError, match="module 'drstool.formats' has no attribute 'nothing'"):
        drstool.formats.nothing  # noqa: B018


def _defined(body):
    found = set()
    for node in body:
        # Only for readers and type checkers; a test of its own sees that it is there.
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found |= _defined(node.body)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return found
