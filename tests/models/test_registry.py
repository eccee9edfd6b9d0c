from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anytag.errors
from anytag.errors import CardError, UnknownModelError
from anytag.models import registry as hub
from anytag.vocabulary import Vocabulary
from tests.tiny import make_tiny_model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an empty working directory, and one model outside of both, in tmp_path/models."""
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def install(name: str) -> Path:
    return make_tiny_model(hub.cache() / name)


def test_embedded_is_package_data() -> None:
    package = Path(anytag.errors.__file__).parent
    assert package / "assets" / "mini" == hub.EMBEDDED
    for name in (None, "mini"):
        assert hub.resolve(name) == hub.resolve() == hub.EMBEDDED


def test_a_folder_is_itself(home: Path, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "mine")
    for given_folder in (folder, str(folder), "../mine", Path("../mine"), f"{folder}/"):
        assert hub.resolve(given_folder).resolve() == folder


def test_the_folder_of_a_training_says_where_its_model_is(home: Path) -> None:
    make_tiny_model(Path("run", "model"))
    with pytest.raises(UnknownModelError, match=r"its model is run.model"):
        hub.resolve("run")


def test_a_name_is_found_in_the_cache(home: Path) -> None:
    folder = install("ram-tiny_1.0")
    assert hub.resolve("ram-tiny_1.0") == folder == home / "models" / "ram-tiny_1.0"


def test_a_folder_goes_before_a_name(home: Path) -> None:
    install("other")
    folder = make_tiny_model(Path("other"))
    assert hub.resolve("other") == folder


def test_a_folder_that_is_no_model_does_not_hide_a_name(home: Path) -> None:
    folder = install("dogs")
    Path("dogs").mkdir()
    assert hub.resolve("dogs") == folder


def test_mini_is_always_the_embedded_one(home: Path) -> None:
    install("mini")
    make_tiny_model(Path("mini"))
    assert hub.resolve("mini") == hub.EMBEDDED
    assert hub.resolve("./mini") == Path("mini")
    assert home / "models" / "mini" not in hub.installed()


def test_an_unknown_name_says_what_there_is(home: Path) -> None:
    install("ram-tiny")
    with pytest.raises(UnknownModelError) as caught:
        hub.resolve("rum-tiny")
    for told in ("'rum-tiny'", "ram-tiny", "mini", str(home / "models"), "card.json"):
        assert told in str(caught.value)


@pytest.mark.parametrize("path", [Path("none"), Path(), "", ".", "..", "/", "a\0b", "x" * 5000, "~"])
def test_what_is_no_model_is_an_error(home: Path, path: str | Path) -> None:
    with pytest.raises(UnknownModelError):
        hub.resolve(path)


@pytest.mark.parametrize("name", ["../outside", "..", "models/../../outside", "/outside", ".hidden", "link"])
def test_a_name_never_leads_outside_of_the_cache(home: Path, name: str) -> None:
    install("inside")
    outside = make_tiny_model(home / "outside")
    install(".hidden")
    (hub.cache() / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(UnknownModelError):
        hub.resolve(name)
    assert home / "models" / name not in hub.installed()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=8) | st.text(alphabet="./\\~ab", max_size=8))
def test_any_text_is_the_model_or_our_error(home: Path, name: str) -> None:
    try:
        assert hub.resolve(name) == hub.EMBEDDED
    except UnknownModelError:
        assert name != "mini"


def test_installed_are_models_alone_and_sorted(home: Path) -> None:
    folders = [install("b"), install("a")]
    (hub.cache() / "half").mkdir()
    (hub.cache() / "file").write_text("")
    found = [folder for folder in hub.installed() if folder != hub.EMBEDDED]
    assert found == sorted(folders)


def test_nothing_is_installed_in_a_cache_that_is_missing(home: Path) -> None:
    assert [folder for folder in hub.installed() if folder != hub.EMBEDDED] == []
    assert not home.exists(), "looking makes nothing"


def test_nothing_is_installed_in_a_cache_of_somebody_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("a")

    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # for root all may be read
    assert hub.installed() == [hub.EMBEDDED]
    with pytest.raises(UnknownModelError, match="Installed: mini"):
        hub.resolve("b")


def test_what_is_installed_resolves_by_its_name(home: Path) -> None:
    install("b")
    for folder in hub.installed():
        assert hub.resolve(hub.describe(folder).name) == folder


def test_describe(home: Path) -> None:
    folder = install("renamed")
    found = hub.describe(folder)
    assert (found.name, found.path, found.licence) == ("renamed", folder, "Apache-2.0")
    assert found.metrics == {"nothing": 0.0}
    assert found.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_describe_names_a_broken_card(home: Path) -> None:
    folder = install("broken")
    (folder / "card.json").write_text("{}")
    with pytest.raises(CardError, match=r"broken.card\.json"):
        hub.describe(folder)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the XDG folders are Linux's")
def test_the_cache_is_the_users(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANYTAG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache() == tmp_path / "xdg" / "anytag" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert hub.cache() == tmp_path / ".cache" / "anytag" / "models"
    monkeypatch.setenv("ANYTAG_HOME", "~/tags")
    assert hub.cache() == tmp_path / "tags" / "models"


@pytest.mark.parametrize("one", ["animal", "food", "person", "plant"])
@pytest.mark.parametrize(
    "other", ["building", "clothing", "computer", "container", "machine", "toy", "vehicle"]
)
def test_broader_tags_of_the_embedded_model_do_not_mix_kinds(one: str, other: str) -> None:
    """WordNet has toy dogs as toys, and ImageNet's amphibian is a vehicle."""
    tags = Vocabulary.read(hub.EMBEDDED / "vocabulary.jsonl")
    broader = [{tags[number].id for number in numbers} for numbers in tags.broader]
    assert [tag.id for tag, ids in zip(tags, broader, strict=True) if {one, other} <= ids] == []
