from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import httpx
import pytest
from PIL import Image

from anytag.images import Photo, load
from anytag.library.library import Library
from anytag.server import photos as server_photos
from tests.cli.test_serve import process
from tests.command import run
from tests.http_service import Served, serving

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"
COUNT = len(list(EXAMPLES.glob("*.jpg")))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    shutil.copytree(EXAMPLES, folder)
    (folder / "broken.jpg").write_bytes(b"no photo")
    with Library.open(tmp_path / "library.db") as library:
        library.sync(folder)
    return tmp_path / "library.db"


@pytest.fixture
def served(database: Path) -> Iterator[Served]:
    with serving(has_library=True, library=database) as one:
        yield one


def get(served: Served, path: str, **query: Any) -> Any:
    response = served.client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def decide(served: Served, photos: list[int], tag: str, kind: str) -> Any:
    response = served.client.post("/v1/decisions", json={"photos": photos, "tag": tag, "kind": kind})
    assert response.status_code == 200, response.text
    return response.json()["photos"]


def named(served: Served, name: str) -> dict[str, Any]:
    ids = get(served, "/v1/search")["ids"]
    (photo,) = (one for one in get(served, "/v1/photos", id=ids)["photos"] if one["name"] == name)
    return dict(photo)


def tags(photo: dict[str, Any]) -> dict[str, str | None]:
    return {tag["name"]: tag["decision"] for tag in photo["tags"]}


def test_all_photos_are_listed_with_what_is_known_of_them(served: Served, database: Path) -> None:
    found = get(served, "/v1/search")
    photos = get(served, "/v1/photos", id=found["ids"])["photos"]
    with Library.open(database) as library:
        expected = [photo.path for photo in library.photos()]
    assert [photo["path"] for photo in photos] == expected
    assert found["total"] == COUNT + 1
    assert named(served, "broken.jpg")["error"]
    assert "cat" in tags(named(served, "cat.jpg"))
    assert get(served, "/v1/library")["photos"] == {"done": COUNT, "failed": 1}


def test_search_finds_what_the_library_finds(served: Served, database: Path) -> None:
    with Library.open(database) as library:
        for text, tags_ in (("coffee", []), ("a cat", ["animal"])):
            hits = library.search(text, tags=tags_, top_k=1000).hits
            found = get(served, "/v1/search", text=text, tag=tags_)
            assert found["fits"]
            assert found["ids"] == [hit.photo.id for hit in hits]
            assert found["scores"] == [hit.score for hit in hits]
    assert not get(served, "/v1/search", text="a submarine reactor")["fits"]


def test_photos_are_filtered_and_ordered(served: Served) -> None:
    cat, coffee = named(served, "cat.jpg")["id"], named(served, "coffee.jpg")["id"]
    assert cat in get(served, "/v1/search", tag="animal")["ids"]
    assert coffee not in get(served, "/v1/search", tag="animal")["ids"]
    assert cat not in get(served, "/v1/search", exclude="animal")["ids"]
    like = get(served, "/v1/search", like=cat)
    assert cat not in like["ids"]
    for order in ("path", "newest", "unsure"):
        assert len(get(served, "/v1/search", order=order)["ids"]) == COUNT + 1
    doubt = [min(abs(tag["score"] - 0.5) for tag in photo["tags"]) for photo in in_doubt(served)]
    assert doubt == sorted(doubt)


def in_doubt(served: Served) -> list[dict[str, Any]]:
    ids = get(served, "/v1/search", order="unsure")["ids"]
    return [photo for photo in get(served, "/v1/photos", id=ids)["photos"] if photo["tags"]]


@pytest.mark.parametrize(
    "query",
    [
        {"after": "yesterday"},
        {"tag": " "},
        {"tag": "zzyzx"},
        {"exclude": "zzyzx"},
        {"text": "a cat", "tag": "zzyzx"},
        {"folder": "/nowhere"},
        {"folder": "/etc"},
        {"folder": "/etc/passwd"},
        {"folder": ""},
        {"before": "2024-13"},
        {"text": ""},
        {"like": 999},
        {"like": "x"},
        {"like": 10**30},
        {"top_k": 0},
        {"no": 1},
    ],
)
def test_a_wrong_search_is_refused(served: Served, query: dict[str, Any]) -> None:
    response = served.client.get("/v1/search", params=query)
    assert response.status_code == 422
    assert response.json()["error"]["message"]


def test_pictures_are_upright_small_and_kept(served: Served, database: Path) -> None:
    """Also of a library that was synced without thumbnails."""
    photo, folder = named(served, "officer.jpg"), database.with_name("library.db.thumbnails")
    assert len(list(folder.rglob("*.jpg"))) == COUNT
    shutil.rmtree(folder)
    for kind, side in (("thumbnail", 320), ("preview", 1600)):
        response = served.client.get(f"/v1/photos/{photo['id']}/{kind}")
        picture = Image.open(io.BytesIO(response.content))
        assert min(side * 3 // 4, photo["width"], photo["height"]) <= max(picture.size) <= side
        assert picture.width / picture.height == pytest.approx(photo["width"] / photo["height"], rel=0.02)
    (kept,) = folder.rglob("*.jpg")
    kept.write_bytes(b"kept")
    assert served.client.get(f"/v1/photos/{photo['id']}/thumbnail").content == b"kept"
    assert served.client.get("/v1/photos/999/thumbnail").status_code == 422
    assert served.client.get(f"/v1/photos/{named(served, 'broken.jpg')['id']}/thumbnail").status_code == 422


def test_decisions_are_kept_and_undone_one_by_one_or_as_a_whole(served: Served, database: Path) -> None:
    cat, ids = named(served, "cat.jpg"), get(served, "/v1/search")["ids"]
    (changed,) = decide(served, [cat["id"]], "animal", "accepted")
    assert tags(changed)["animal"] == "accepted"
    decide(served, [cat["id"]], "cat", "rejected")
    assert len(decide(served, ids, "my holiday", "added")) == len(ids)
    with Library.open(database) as library:
        kept = library.find(cat["id"])
        assert (kept.accepted, kept.rejected, kept.added) == (("animal",), ("cat",), ("my holiday",))
    undone = [served.client.post("/v1/decisions/undo").json()["photos"] for _ in range(4)]
    assert [len(photos) for photos in undone] == [len(ids), 1, 1, 0]
    assert tags(named(served, "cat.jpg")) == tags(cat)


def test_custom_tags_are_suggested_as_soon_as_they_are_there(served: Served, database: Path) -> None:
    assert get(served, "/v1/tags", text="zzinnia")["tags"] == []
    decide(served, [named(served, "cat.jpg")["id"]], "zzinnias | Tom's", "added")
    with Library.open(database) as library, library.database.transaction() as connection:
        connection.execute("INSERT INTO keywords VALUES (1, 'flowers|wild zzinnia', 'test')")
    names = [tag["name"] for tag in get(served, "/v1/tags", text="zzinnia")["tags"]]
    assert names == ["zzinnias | Tom's", "wild zzinnia"]


def test_a_photo_that_is_named_twice_is_one(served: Served) -> None:
    cat = named(served, "cat.jpg")["id"]
    assert len(decide(served, [cat] * 3, "mine", "added")) == 1
    assert get(served, "/v1/photos", id=[cat, 10**30])["photos"][0]["id"] == cat


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_names_that_are_no_unicode_are_shown_as_escapes(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    shutil.copy(EXAMPLES / "cat.jpg", folder / os.fsdecode(b"cat\xfe.jpg"))
    (folder / os.fsdecode(b"broken\xfd.jpg")).write_bytes(b"no photo")
    with Library.open(tmp_path / "library.db") as library:
        report = library.sync(folder)
    assert report.failed == 1
    with serving(has_library=True, library=tmp_path / "library.db") as served:
        assert get(served, "/v1/library")["folders"] == [f"{tmp_path}/f\\udcff"]
        cat, broken = (named(served, name) for name in ("cat\ufffd.jpg", "broken\ufffd.jpg"))
        assert cat["path"] == f"{tmp_path}/f\\udcff/cat\\udcfe.jpg"
        assert "broken\\udcfd" in broken["error"]
        assert served.client.get(f"/v1/photos/{cat['id']}/thumbnail").status_code == 200
        answer = served.client.get(f"/v1/photos/{broken['id']}/thumbnail")
        assert answer.status_code == 422
        assert "broken\\udcfd" in answer.json()["error"]["message"]


def test_a_picture_is_sent_again_only_when_it_changed(served: Served, database: Path) -> None:
    photo = named(served, "cat.jpg")
    url = f"/v1/photos/{photo['id']}/thumbnail"
    first = served.client.get(url)
    assert "private" in first.headers["cache-control"]
    again = served.client.get(url, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    shutil.copy(EXAMPLES / "coffee.jpg", photo["path"])
    with Library.open(database) as library:
        library.sync(database.with_name("photos"))
    other = served.client.get(url, headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200
    assert other.content != first.content


def test_no_picture_is_made_for_a_client_that_has_gone(
    served: Served, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(database.with_name("library.db.thumbnails"))
    gate, begun, made = Event(), Semaphore(0), list[str]()

    def waiting(path: str, **how: object) -> Photo:
        made.append(Path(path).name)
        begun.release()
        assert gate.wait(20)
        return load(path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(server_photos, "load", waiting)
    threads = len(os.sched_getaffinity(0))
    ids = get(served, "/v1/search")["ids"]
    clients = [served.connect() for _ in range(threads + 2)]

    def ask(client: socket.socket, number: int) -> None:
        client.sendall(f"GET /v1/photos/{number}/preview HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())

    cat, coffee = named(served, "cat.jpg")["id"], named(served, "coffee.jpg")["id"]
    others = [one for one in ids if one not in (cat, coffee)]
    for client, number in zip(clients, others[:threads], strict=False):
        ask(client, number)
        assert begun.acquire(timeout=20)
    ask(clients[-2], cat)
    ask(clients[-1], coffee)
    get(served, "/v1/search")  # in the library's thread, after theirs
    clients[-2].close()
    for _ in range(10):
        get(served, "/livez")
    gate.set()
    assert clients[-1].recv(100).startswith(b"HTTP/1.1 200")
    assert "coffee.jpg" in made
    assert "cat.jpg" not in made
    for client in clients:
        client.close()


def test_a_picture_is_shown_where_none_can_be_kept(served: Served, database: Path) -> None:
    shutil.rmtree(database.with_name("library.db.thumbnails"))
    database.with_name("library.db.thumbnails").write_bytes(b"in the way of the folder")
    photo = named(served, "cat.jpg")
    assert served.client.get(f"/v1/photos/{photo['id']}/thumbnail").status_code == 200


def test_a_wrong_decision_changes_nothing(served: Served) -> None:
    cat = named(served, "cat.jpg")
    for wrong in (
        {"photos": [cat["id"], 999], "tag": "x", "kind": "added"},
        {"photos": [10**30], "tag": "x", "kind": "added"},
        {"photos": [True], "tag": "x", "kind": "added"},
        {"photos": [cat["id"]], "tag": " ", "kind": "added"},
        {"photos": [cat["id"]], "tag": "\0\n", "kind": "added"},
        {"photos": [cat["id"]], "tag": "x", "kind": "maybe"},
        {"photos": [], "tag": "x", "kind": "added"},
    ):
        assert served.client.post("/v1/decisions", json=wrong).status_code == 422
    assert tags(named(served, "cat.jpg")) == tags(cat)


def write(served: Served, photos: list[int], *, dry_run: bool) -> list[dict[str, Any]]:
    response = served.client.post("/v1/library/write", json={"photos": photos, "dry_run": dry_run})
    assert response.status_code == 200, response.text
    return list(response.json()["changes"])


def test_sidecars_are_written_as_the_command_writes_them(served: Served, database: Path) -> None:
    cat, coffee = named(served, "cat.jpg"), named(served, "coffee.jpg")
    decide(served, [cat["id"]], "my cat", "added")
    decide(served, [cat["id"]], "animal", "rejected")
    sidecar = Path(f"{cat['path']}.xmp")
    shown = write(served, [coffee["id"], cat["id"]], dry_run=True)
    assert [one["name"] for one in shown] == ["coffee.jpg", "cat.jpg"]
    assert shown[1]["files"] == [str(sidecar)]
    assert "my cat" in shown[1]["added"]
    assert "animal" not in shown[1]["added"]
    assert not sidecar.exists()
    assert write(served, [coffee["id"], cat["id"]], dry_run=False) == shown
    other = named(served, "astronaut.jpg")
    assert not Path(f"{other['path']}.xmp").exists()
    command = run("library", "write", "--dry-run", "--format", "jsonl", "--database", database)
    rows = {row["path"]: row["files"] for row in map(json.loads, command.stdout.splitlines())}
    assert rows[cat["path"]] == rows[coffee["path"]] == []  # nothing is left to write
    assert rows[other["path"]] == [f"{other['path']}.xmp"]
    decide(served, [cat["id"]], "my cat", "rejected")
    (change,) = write(served, [cat["id"]], dry_run=False)
    assert change["removed"] == ["my cat"]


def test_a_sidecar_that_cannot_be_written_harms_no_other(served: Served) -> None:
    cat, coffee, gone, broken = (
        named(served, f"{name}.jpg") for name in ("cat", "coffee", "temple", "broken")
    )
    Path(f"{coffee['path']}.xmp").mkdir()
    Path(gone["path"]).unlink()
    changes = write(served, [one["id"] for one in (broken, gone, coffee, cat)], dry_run=False)
    assert [one["error"] is None for one in changes] == [False, False, False, True]
    assert Path(f"{cat['path']}.xmp").is_file()
    for wrong in (
        {"photos": [999], "dry_run": True},
        {"photos": [cat["id"]]},
        {"photos": [], "dry_run": True},
    ):
        assert served.client.post("/v1/library/write", json=wrong).status_code == 422


def test_a_killed_server_has_kept_what_it_confirmed(database: Path) -> None:
    with process("--library", str(database)) as (served, address):
        ids = httpx.get(f"{address}/v1/search").json()["ids"]
        wanted, confirmed = [f"mark {number}" for number in range(50)], list[str]()

        def correct() -> None:
            with httpx.Client(base_url=address, trust_env=False) as client:
                for number, tag in enumerate(wanted):
                    said = {"photos": [ids[number % len(ids)]], "tag": tag, "kind": "added"}
                    if client.post("/v1/decisions", json=said).status_code == 200:
                        confirmed.append(tag)

        with ThreadPoolExecutor() as threads:
            corrected = threads.submit(correct)
            while len(confirmed) < 20 and not corrected.done():
                pass
            os.kill(served.pid, signal.SIGKILL)  # while the next ones are on their way
            assert isinstance(corrected.exception(), httpx.TransportError)
        served.wait()
    with Library.open(database) as library:
        kept = {tag for photo in library.photos() for tag in photo.added}
    assert 20 <= len(confirmed) < 50
    assert set(confirmed) <= kept <= set(wanted[: len(confirmed) + 1])
