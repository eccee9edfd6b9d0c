"""`anytag.evaluation`: data and models by name -> report, on a tiny model and small photos."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag.data.rows import Row, write_rows
from anytag.errors import AnytagError
from anytag.evaluation import metrics
from anytag.evaluation.adapters import Predictions, TaggerAdapter, adapter, shared
from anytag.evaluation.evaluate import Cost, Report, evaluate_captions, evaluate_retrieval, evaluate_tags
from anytag.evaluation.report import report
from anytag.evaluation.report.svg import chart
from anytag.evaluation.run import Evaluation, run
from anytag.evaluation.tasks import Published, TagTask, TextTask, names_task, rows_of, vocabulary_task
from anytag.queries.requests import CustomTag
from anytag.results import Caption
from anytag.runtime.base import Device
from anytag.tagger import Tagger
from anytag.vocabulary import Tag, Vocabulary
from tests.tiny import make_tiny_model

SAID = ["A dog on a beach .", "A cat .", "Two dogs run .", "A red ball .", "A cat on a beach .", "A dog ."]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl: six photos with captions, six with labels, one that is broken, and other splits."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows = []
    for number, said in enumerate(SAID):
        rows.append(Row(f"{number}.png", "told", "test", captions=(said, said.replace("A ", "The "))))
        labels = ("dog",) if "dog" in said else ("ice cream",)
        absent = ("zebra",) if number % 2 else ("zebra", "cat")
        rows.append(Row(f"{number}.png", "named", "test", tags=labels, absent=absent))
        Image.fromarray(random.integers(0, 256, (24, 30, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    rows.append(Row("broken.png", "told", "test", captions=("A dog .",)))
    rows.append(Row("0.png", "told", "val", captions=("A dog .",)))
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models; the second knows fewer tags."""
    folder = tmp_path_factory.mktemp("models")
    return [
        str(make_tiny_model(folder / name, tags=tags, seed=tags)) for name, tags in (("one", 7), ("two", 4))
    ]


def asked(file: Path, paths: list[str], **changes: object) -> Evaluation:
    base = Evaluation(str(file), models=(paths[0],), source="told", at_least=1, times=20, costs=False)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_tagging_asks_the_vocabulary(data: Path, models: list[str]) -> None:
    found = run(asked(data, models))
    assert (found.kind, found.photos, found.tags) == ("tagging", 6, 7)
    (one,) = found.measured
    assert {
        "mAP",
        "mAP as published",
        "micro AP",
        "precision",
        "recall",
        "F1",
        "macro F1",
        "ECE of given tags",
    } <= set(one.figures)
    assert one.figures["mAP"].low is not None
    assert [line.name for line in one.tags][:3] == ["dog", "cat", "beach"]
    assert {line.name: line.photos for line in one.tags}["animal"] == 5  # of dogs and cats
    by_threshold = {f"{kind}{name}" for kind in ("", "macro ") for name in ("precision", "recall", "F1")}
    assert set(one.curves) == {"precision-recall", "calibration"} | by_threshold
    assert [Path(path).name for path in found.failed] == ["broken.png"]
    assert found.mistakes[0].rows


def test_figures_are_those_of_the_scores(data: Path, models: list[str]) -> None:
    tagger = Tagger.load(models[0])
    rows = rows_of(data, split="test", source="told", limit=6)
    task = vocabulary_task("some", rows, root=data.parent, vocabulary=tagger.vocabulary)
    scores = np.zeros(task.present.shape)
    for number, tags in enumerate(tagger.tag_many(task.photos, threshold=0)):
        for tag in tags.tags:
            scores[number, tagger.vocabulary.index(tag.id)] = tag.score
    (one,) = evaluate_tags(task, [TaggerAdapter(tagger)], times=0).measured
    assert one.figures["mAP"].value == pytest.approx(
        100 * metrics.mean_average_precision(scores, task.present)[0]
    )
    assert one.figures["mAP"].low is None
    published = metrics.mean_average_precision(scores, task.present, at_least=0)[0]
    assert one.figures["mAP as published"].value == pytest.approx(100 * published)
    given = metrics.Counts.of(scores >= 0.5, task.present)
    assert one.figures["recall"].value == pytest.approx(100 * given.micro()["recall"])


def test_two_models_are_compared_on_the_tags_that_both_know(data: Path, models: list[str]) -> None:
    found = run(asked(data, models, models=tuple(models)))
    assert found.tags == 4
    assert [one.name for one in found.measured] == ["tiny (" + models[0] + ")", "tiny (" + models[1] + ")"]
    first, second = found.measured
    (difference,) = found.differences.values()
    assert difference.value == pytest.approx(second.figures["mAP"].value - first.figures["mAP"].value)


def test_open_set_asks_the_names_of_labels_and_leaves_out_what_is_not_known(
    data: Path, models: list[str]
) -> None:
    found = run(asked(data, models, source="named", kind="open-set"))
    (one,) = found.measured
    lines = {line.name: line for line in one.tags}
    assert list(lines) == ["cat", "dog", "ice cream", "zebra"]
    assert (lines["dog"].trained, lines["zebra"].trained) == (True, False)
    assert lines["dog"].photos == 3
    task = names_task("some", rows_of(data, split="test", source="named"), root=data.parent)
    assert task.known is not None
    assert task.known[:2].tolist() == [[True, True, False, True], [False, False, True, True]]


def test_unknown_entries_play_no_part() -> None:
    present = np.array([[True], [False], [True], [False]])
    known = np.array([[True], [False], [True], [True]])
    task = TagTask("some", tuple(map(Path, "abcd")), (CustomTag("dog"),), present, known=known)

    class Fixed:
        name = "fixed"

        def predict(self, task: TagTask, **_: object) -> Predictions:
            return Predictions(np.array([[0.4], [0.9], [0.3], [0.2]], np.float32), {}, np.array([0.25]))

    (one,) = evaluate_tags(task, [Fixed()], times=0).measured
    assert one.figures["mAP"].value == 100
    assert one.figures["precision"].value == 100
    assert one.figures["ECE of all pairs"].value == pytest.approx(100 * (0.6 + 0.7 + 0.2) / 3)
    assert one.figures["ECE of given tags"].value == pytest.approx(100 * (0.6 + 0.7) / 2)
    assert one.figures["P@5"].value == pytest.approx(100 * 2 / 3)  # nothing is asked of the second photo


def test_trained_tags_and_words_are_told_apart() -> None:
    present = np.array([[True, False], [False, True]])
    task = TagTask("some", (Path("a"), Path("b")), (CustomTag("dog"), CustomTag("zebra")), present)

    class Fixed:
        name = "fixed"

        def predict(self, task: TagTask, **_: object) -> Predictions:
            scores = np.array([[0.9, 0.8], [0.1, 0.7]], np.float32)
            return Predictions(scores, {}, np.array([0.5, 0.5]), (True, False))

    figures = evaluate_tags(task, [Fixed()], times=0).measured[0].figures
    assert (figures["mAP of trained tags"].value, figures["mAP of tags by their words"].value) == (100, 50)


def test_photos_of_one_class_have_top_k(data: Path, models: list[str]) -> None:
    rows = [replace(row, absent=()) for row in rows_of(data, split="test", source="named")]
    task = names_task("some", rows, root=data.parent)
    (one,) = evaluate_tags(task, [adapter(models[0])], times=0).measured
    assert {"top-1", "top-5"} <= set(one.figures)
    assert one.figures["top-5"].value == 100


def test_retrieval_both_ways(data: Path, models: list[str]) -> None:
    found = run(asked(data, models, kind="retrieval"))
    assert found.photos == 6
    assert list(found.failed) == [str(data.parent / "broken.png")]
    figures = found.measured[0].figures
    assert {f"{way} R@{k}" for way in ("text to photo", "photo to text") for k in (1, 5, 10)} <= set(figures)
    assert figures["text to photo R@10"].value == 100


def test_retrieval_by_hand() -> None:
    task = TextTask("some", (Path("a"), Path("b")), (("one", "two"), ("three",)))
    similar = np.array([[0.9, 0.1, 0.2], [0.5, 0.6, 0.3]], np.float32)  # 2 photos, 3 captions
    figures = evaluate_retrieval(task, {"x": similar}, times=0).measured[0].figures
    assert figures["photo to text R@1"].value == 50
    assert figures["text to photo R@1"].value == pytest.approx(200 / 3)


def test_captions_are_judged_and_the_worst_shown() -> None:
    task = TextTask("some", tuple(map(Path, "abc")), (("a dog runs",), ("two cats sleep here",), ("x",)))
    found = evaluate_captions(task, {"ours": ["a dog runs", "a car", None]}, failed={2: "broken"}, times=10)
    assert (found.photos, found.failed) == (2, {"c": "broken"})
    assert found.measured[0].figures["CIDEr"].low is not None
    assert found.mistakes[0].title == "a car (CIDEr 0.0)"


def test_a_report_is_written_as_json_markdown_and_a_page_of_its_own(
    data: Path, models: list[str], tmp_path: Path
) -> None:
    found = run(asked(data, models, models=tuple(models)))
    found = replace(found, published=(Published("Them", "mAP as published", 86.6, "a <paper>"),))
    files = report.write(found, tmp_path / "out")
    assert [path.name for path in files] == ["report.json", "report.md", "report.html"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(report.FILES)
    read = json.loads(files[0].read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert read["measured"][0]["figures"]["mAP"]["value"] == found.measured[0].figures["mAP"].value
    text = files[1].read_text(encoding="utf-8")
    assert "| mAP as published |" in text and "Them (published)" in text and "| 86.6 |" in text
    assert "broken.png" in text
    page = files[2].read_text(encoding="utf-8")
    assert page.count("<svg ") == 3
    assert "data:image/jpeg;base64," in page
    assert "a &lt;paper&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    Balanced().check(page)


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def check(self, page: str) -> None:
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_chart_escapes_names() -> None:
    assert "<b>" not in chart("a <b>", {"<b>": [(0, 0), (1, 1)]}, x="<b>", y="y")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": "nowhere.jsonl"}, "neither a file of rows nor a benchmark"),
        ({"data": "coco-80"}, "get the 5,000 images"),
        ({"split": "dev"}, "no row for --split dev --source told; available: --split test --source named"),
        ({"kind": "open-set"}, "choose a --source with tags"),
        ({"kind": "retrieval", "source": "named"}, "no row has captions"),
        ({"at_least": 99}, "6 photos could be read, and no tag is present in 99 or more"),
        ({"baselines": ("imagenet:",)}, "lacks a name"),
        ({"kind": "caption", "baselines": ("open_clip:x",)}, "--baseline cannot write captions"),
        ({"prompts": "ensemble"}, "is for zero-shot baselines"),
    ],
)
def test_what_cannot_be_measured_is_said(
    data: Path, models: list[str], changes: dict[str, object], told: str
) -> None:
    with pytest.raises(AnytagError, match=told):
        run(asked(data, models, **changes))


def test_tags_of_another_vocabulary_are_found_by_name(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny", tags=4)
    vocabulary = Vocabulary([Tag("n1", "kitten", "object"), Tag("n2", "spoon", "object")])
    task = vocabulary_task("some", [Row("x", "s", "test")], root=tmp_path, vocabulary=vocabulary)
    assert shared(task, [TaggerAdapter(Tagger.load(folder))]) == [0]


def test_a_report_is_plain(data: Path, models: list[str]) -> None:
    found = run(asked(data, models))
    assert isinstance(found, Report)
    assert json.loads(json.dumps(found.to_dict()))["photos"] == 6


def test_cost_is_that_of_a_process_of_its_own(data: Path, models: list[str]) -> None:
    found = run(asked(data, models, costs=True))
    (one,) = found.costs.values()
    assert one.milliseconds > 0
    assert 20 < one.megabytes < 2000
    assert "milliseconds a photo" in report.markdown(found)


def test_cost_is_of_photos_that_can_be_read(
    data: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def count(_spec: str | None, task: TagTask, **_: object) -> Cost:
        seen.extend(path.name for path in task.photos)
        return Cost(1.0, 1.0)

    monkeypatch.setattr("anytag.evaluation.run.cost", count)
    run(asked(data, models, costs=True))
    assert seen == [f"{number}.png" for number in range(6)]


class Teller:
    """Writes the same caption for every photo that can be read."""

    def __init__(self, tagger: Tagger) -> None:
        self.tagger = tagger

    @classmethod
    def load(cls, model: str | None, *, device: Device) -> Teller:
        return cls(Tagger.load(model, device=device))

    def caption_many(self, photos: Iterable[Path]) -> Iterator[Caption]:
        for seen in self.tagger.encode_many(photos):
            yield Caption(seen.path, seen.width, seen.height, "tiny", "a dog on a beach", error=seen.error)


def test_captions_of_a_model(data: Path, models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytag.evaluation.run.Captioner", Teller)
    found = run(asked(data, models, kind="caption"))
    assert (found.kind, found.photos, list(found.failed)) == ("caption", 6, [str(data.parent / "broken.png")])
    figures = found.measured[0].figures
    assert set(figures) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr", "METEOR"}
    assert 0 < figures["CIDEr"].value < 500
    assert "| BLEU-4 |" in report.markdown(found)


@pytest.fixture
def hico(tmp_path: Path) -> Path:
    """The benchmark hico-600 with 200 photos, of which all but the first are links to it."""
    folder = tmp_path / "hico"
    (folder / "images").mkdir(parents=True)
    names = [f"HICO_test2015_{number:08d}.jpg" for number in range(200)]
    (folder / "hico_600_annots.txt").write_text("".join(f"{name},{n % 2}\n" for n, name in enumerate(names)))
    (folder / "hico_600_taglist.txt").write_text("person board airplane\nperson direct airplane\n")
    Image.new("RGB", (20, 20), "red").save(folder / "images" / names[0])
    for name in names[1:]:
        (folder / "images" / name).hardlink_to(folder / "images" / names[0])
    return folder


def on_hico(folder: Path, model: str, **changes: object) -> Report:
    base = Evaluation("hico-600", (model,), images=folder / "images", lists=folder, times=0, costs=False)
    return run(replace(base, **changes))  # type: ignore[arg-type]


def test_a_whole_benchmark_has_published_figures_beside_it(hico: Path, models: list[str]) -> None:
    found = on_hico(hico, models[0])
    assert {one.who for one in found.published} == {"RAM 14M", "RAM++ 14M", "CLIP"}
    assert all(one.trained_on for one in found.published)
    told = report.overview(found)
    assert "CLIP (published) was trained on: 400 million pairs" in told
    assert "(0 of the 2 tags are in its trained vocabulary)." in told


@pytest.mark.parametrize("broken", [False, True])
def test_published_figures_do_not_stand_beside_a_part(hico: Path, models: list[str], broken: bool) -> None:
    """One photo of 200 is missing or cannot be read: few enough to go on, and too many to compare."""
    lost = hico / "images" / "HICO_test2015_00000007.jpg"
    lost.unlink()
    if broken:
        lost.write_bytes(b"no photo")
    found = on_hico(hico, models[0])
    assert (found.photos, len(found.failed), found.published) == (199, 1, ())
    assert "1 photos are missing or cannot be read" in report.overview(found)


def test_published_figures_do_not_stand_beside_a_limit(hico: Path, models: list[str]) -> None:
    found = on_hico(hico, models[0], limit=20)
    assert (found.photos, found.published) == (20, ())
    assert "only the first 20 photos" in report.overview(found)
    whole = on_hico(hico, models[0], limit=200)
    assert whole.published and not whole.notes


def test_a_benchmark_without_many_of_its_photos_is_an_error(hico: Path, models: list[str]) -> None:
    for number in range(3, 6):
        (hico / "images" / f"HICO_test2015_{number:08d}.jpg").unlink()
    with pytest.raises(AnytagError, match=r"3 of the 200 photos of hico-600 are missing.*--allow-missing"):
        on_hico(hico, models[0])
    found = on_hico(hico, models[0], allow_missing=True)
    assert (found.photos, len(found.failed), found.published) == (197, 3, ())


def test_benchmarks_that_tell_common_tags_apart_name_them_as_the_paper(data: Path, models: list[str]) -> None:
    present = np.array([[True, False], [False, True]])
    task = TagTask(
        "some", (data.parent / "0.png", data.parent / "1.png"), (CustomTag("dog"), CustomTag("zebra")),
        present,
        halves=("mAP of common tags", "mAP of uncommon tags"),
    )  # fmt: skip
    tagger = TaggerAdapter(Tagger.load(models[0]))
    figures = evaluate_tags(task, [tagger], times=0).measured[0].figures
    assert {"mAP of common tags", "mAP of uncommon tags"} <= set(figures)


def test_retrieval_without_a_photo_that_can_be_read_is_an_error(tmp_path: Path, models: list[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", [Row("gone.png", "told", "test", captions=("A dog .",))])
    with pytest.raises(AnytagError, match="no photo to rank"):
        run(asked(tmp_path / "rows.jsonl", models, kind="retrieval"))


def test_all_words_of_a_chart_are_within_it() -> None:
    """Letters of 11 px are 6 wide, and a little more than that is left at the right end of the axis."""
    drawn = chart("Some", {"a long name " * 9: [(0, 0), (1, 1)]}, x="x", y="y")
    width = float(re.search(r'viewBox="0 0 (\d+)', drawn).group(1))  # type: ignore[union-attr]
    for where, anchor, text in re.findall(r'<text x="([\d.]+)"[^>]*?(text-anchor="\w+")?>([^<]*)<', drawn):
        half = {'text-anchor="middle"': 0.5, 'text-anchor="end"': 0}.get(anchor, 1)
        assert float(where) + 6.5 * len(text) * half <= width, text


def test_a_photo_with_a_row_for_each_caption_counts_once(
    data: Path, models: list[str], tmp_path: Path
) -> None:
    rows = [
        Row(str(data.parent / f"{n}.png"), "told", "test", captions=(said,), tags=(f"tag {place}",))
        for n in range(3)
        for place, said in enumerate(("A dog .", "A cat on a beach ."))
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    found = rows_of(tmp_path / "rows.jsonl", split="test", limit=2)
    assert [(row.captions, row.tags) for row in found] == [
        (("A dog .", "A cat on a beach ."), ("tag 0", "tag 1"))
    ] * 2
    measured = run(asked(tmp_path / "rows.jsonl", models, kind="retrieval"))
    assert measured.photos == 3
    assert run(asked(tmp_path / "rows.jsonl", models)).measured[0].tags[0].photos == 3
