"""The maps of the code are true: each path in them exists, and each module is tested somewhere."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import rait.domain

TOP = Path(__file__).parents[2]
MAPS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "tests/README.md")
FOLDERS = ("unit", "property", "integration", "hostile")
PATH = re.compile(r"(?<![\w./-])(?:rait|tests|docs|bench|scripts)/[\w./-]*\w/?")


@pytest.mark.parametrize("name", MAPS)
def test_every_path_in_a_map_is_there(name: str) -> None:
    paths = PATH.findall((TOP / name).read_text())
    assert paths
    assert [path for path in paths if not (TOP / path).exists()] == []


def modules() -> list[str]:
    """All modules, as paths below rait/ without their ending."""
    package = TOP / "rait"
    found = (path.relative_to(package) for path in package.rglob("*.py"))
    return sorted(str(path.with_suffix("")) for path in found if path.name != "__init__.py")


def files_of_tests() -> set[str]:
    return {test.stem for folder in FOLDERS for test in (TOP / "tests" / folder).glob("test_*.py")}


def is_namesake(test: str, module: str) -> bool:
    """Whether a test file has a module's name, alone or after its folder's, and maybe more."""
    folder, _, name = module.rpartition("/")
    heads = (f"test_{name}", f"test_{folder.rpartition('/')[2]}_{name}")
    return any(test == head or test.startswith(f"{head}_") for head in heads)


def told() -> dict[str, str]:
    """By module, where tests/README.md says that it is tested."""
    text = (TOP / "tests" / "README.md").read_text().partition("| module | tested in |")[2]
    return dict(re.findall(r"^\| `([\w/]+)` \| (.+?) \|$", text, re.M))


def test_each_module_has_a_test_of_its_name_or_a_line_that_says_where_it_is_tested() -> None:
    tests = files_of_tests()
    alone = [m for m in modules() if not any(is_namesake(test, m) for test in tests)]
    assert sorted(set(alone) - set(told())) == []


def test_what_is_told_of_modules_is_true() -> None:
    tests, known = files_of_tests(), set(modules())
    for module, where in told().items():
        assert module in known
        named = re.findall(r"`(test_\w+)`", where)
        assert named, module
        assert set(named) <= tests, module


def structs_of_the_domain() -> Iterator[type[msgspec.Struct]]:
    for found in pkgutil.walk_packages(rait.domain.__path__, "rait.domain."):
        for value in vars(importlib.import_module(found.name)).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct):
                yield value


def test_no_value_of_the_domain_can_be_changed() -> None:
    kinds = set(structs_of_the_domain()) - {msgspec.Struct}
    assert len(kinds) > 50
    assert [kind.__name__ for kind in kinds if not kind.__struct_config__.frozen] == []


def test_more_than_seven_fields_are_given_by_name_and_so_is_all_that_people_write() -> None:
    """Nobody can tell so many values in a row apart."""
    for kind in structs_of_the_domain():
        most = 0 if kind.__module__ == "rait.domain.config.schema" else 7
        assert len(kind.__match_args__) <= most, kind


def test_what_there_is_for_each_link_is_no_work_for_the_garbage_collector() -> None:
    """Ten thousand links, their events and the pairs of a fleet are all held at once."""
    modules = ("rait.domain.topology", "rait.domain.events", "rait.domain.fleet_pairs")
    kinds = {kind for kind in structs_of_the_domain() if kind.__module__ in modules}
    tracked = [kind.__name__ for kind in kinds if kind.__struct_config__.gc]
    assert tracked == ["Topology"], "of which there are two or three"
