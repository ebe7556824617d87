"""What is shipped: the build with configurations, the recipe for conda, the citation and the issue forms."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import pyro_mmvae
from pyro_mmvae._citation import CITATION, software_citation

ROOT = Path(pyro_mmvae.__file__).parents[1]
if not (ROOT / "pyproject.toml").exists():  # installed without a checkout around it
    pytest.skip("no pyproject.toml beside the package", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RELEASE = pyro_mmvae.__version__.partition(".dev")[0]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "PyYAML": "pyyaml"}


def test_build_py_copies_every_configuration_into_the_package(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build", "-b", str(tmp_path / "build")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    package = tmp_path / "build" / "lib" / "pyro_mmvae"
    for file in (ROOT / "configs").glob("*.yaml"):
        assert (package / "configs" / file.name).read_bytes() == file.read_bytes()
    assert len(list((package / "configs").iterdir())) >= 6
    assert (package / "py.typed").exists()
    assert not (ROOT / "pyro_mmvae" / "configs").exists()  # no file is in the checkout twice


def test_conda_recipe_requires_what_the_project_requires() -> None:
    text = re.sub(r"\{%.*%\}\n", "", (ROOT / "packaging" / "conda" / "meta.yaml").read_text())
    recipe = yaml.safe_load(text.replace("{{ version }}", RELEASE).replace("{{ PYTHON }}", "python"))
    expected = {"python": PROJECT["requires-python"]}
    for requirement in PROJECT["dependencies"]:
        name, bound = re.match(r"([\w-]+)(?:\[\w+\])?(>=[\d.]+)", requirement).groups()  # type: ignore[union-attr]
        expected[CONDA_NAMES.get(name, name)] = bound
    assert dict(line.split(" ") for line in recipe["requirements"]["run"]) == expected
    version = re.search(r'set version = "(.*)"', (ROOT / "packaging" / "conda" / "meta.yaml").read_text())
    assert version is not None
    assert version[1] == RELEASE


def test_citation_has_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == RELEASE
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert paper["authors"][0] == {"family-names": "Qiu", "given-names": "Peijie"}
    assert len(paper["authors"]) == 9
    assert paper["identifiers"][0]["value"] == "arXiv:2412.20487"


def test_citing_page_citation_file_and_reports_agree() -> None:
    page = (ROOT / "docs" / "about" / "citing.md").read_text(encoding="utf-8")
    assert re.findall(r"^```bibtex\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL) == [
        CITATION, software_citation(RELEASE)
    ]  # fmt: skip
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    software = software_citation(str(citation["version"])).replace("\\_", "_")
    [author] = citation["authors"]
    for text in (citation["title"], author["name"], str(citation["version"])):
        assert f"{{{text}}}" in software
    paper = citation["preferred-citation"]
    names = " and ".join(f"{name['family-names']}, {name['given-names']}" for name in paper["authors"])
    fields = {
        "title": paper["title"], "author": names, "booktitle": paper["collection-title"], "volume": paper["volume"],
        "number": paper["issue"], "pages": f"{paper['start']}--{paper['end']}", "year": paper["year"],
        "doi": paper["doi"], "note": paper["identifiers"][0]["value"],
    }  # fmt: skip
    found = re.findall(r"^  (\w+) += \{(.*?)\},?$", CITATION, re.MULTILINE | re.DOTALL)
    assert {key: " ".join(text.split()) for key, text in found} == {key: str(value) for key, value in fields.items()}


def test_classifiers_name_the_versions_of_python_that_nox_tests() -> None:
    prefix = "Programming Language :: Python :: 3."
    versions = ["3." + name.removeprefix(prefix) for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert versions == ["3.11", "3.12", "3.13"]
    assert str(versions).replace("'", '"') in (ROOT / "noxfile.py").read_text()
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_issue_forms_are_valid() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    if not folder.exists():
        pytest.skip("the source distribution has no issue forms")
    for name in ("bug.yml", "feature.yml"):
        form = yaml.safe_load((folder / name).read_text())
        assert {"name", "description", "body"} <= set(form)
        for element in form["body"]:
            assert element["type"] in {"textarea", "checkboxes", "input", "dropdown", "markdown"}
            assert element["attributes"]["label"]
