"""`anytag.scale.Tag` in pipelines of others, and what servers refuse for the moment."""

from __future__ import annotations

import pickle

import pytest

from anytag import Tagger
from anytag.data.backoff import is_transient, with_retries
from anytag.errors import AnytagError
from anytag.scale import Tag, Task
from anytag.scale.mapping import Decode, Predict
from tests.scale.inputs import jpeg
from tests.tiny import make_tiny_model

pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_batches_of_any_kind_get_the_tags_of_tag_many(model: str) -> None:
    mapping = pickle.loads(pickle.dumps(Tag(task=Task(model=model))))
    cells = [jpeg(0), b"", jpeg(1), None]
    earlier = [["old"]] * 4  # which is replaced
    table = pyarrow.table(
        {
            "jpg": pyarrow.array(cells, pyarrow.binary()),
            "mine": range(4),
            "tags": earlier,
            "error": ["old"] * 4,
        }
    )
    expected = list(Tagger.load(model).tag_many([jpeg(0), jpeg(1)], workers=1))
    from_table = mapping(table)
    assert from_table.column_names == ["jpg", "mine", "tags", "scores", "error"]
    frame, columns = (
        mapping(table.to_pandas()),
        mapping({"jpg": cells, "mine": list(range(4)), "tags": earlier, "error": ["old"] * 4}),
    )
    for got in (from_table.to_pydict(), columns, frame.to_dict("list")):
        assert [list(got["tags"][place]) for place in (0, 2)] == [list(one.names) for one in expected]
        scores = [[tag.score for tag in one.tags] for one in expected]
        assert [list(got["scores"][place]) for place in (0, 2)] == scores
        assert [got["error"][place]["type"] for place in (1, 3)] == ["ImageError"] * 2


def test_two_stages_give_what_one_gives(model: str) -> None:
    task = Task(model=model, embed=True)
    table = pyarrow.table({"photo": [jpeg(number) for number in range(11)] + [b"none"]})
    assert Predict(task)(Decode("photo", task)(table)) == Tag("photo", task=task)(table)


def test_a_mapping_is_small_until_it_is_called(model: str) -> None:
    assert len(pickle.dumps(Tag(task=Task(model=model)))) < 2000


def test_a_machine_with_another_model_says_so(model: str) -> None:
    with pytest.raises(AnytagError, match="of this machine differs from the driver's"):
        Task(model=model, card="another").open()
    with pytest.raises(AnytagError, match="top_k is 'many'"):
        Task(model=model, options={"top_k": "many"}).open()


class Busy:
    """Refuses so many times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error = times, error

    def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "done"


def test_what_is_refused_for_the_moment_is_asked_again_later_each_time() -> None:
    pauses: list[float] = []
    busy = OSError("An error occurred (SlowDown): Please reduce your request rate.")
    assert with_retries(Busy(6, busy), sleep=pauses.append) == "done"
    assert all(0 <= pause <= 0.5 * 2**number for number, pause in enumerate(pauses))
    assert len(set(pauses)) == 6
    with pytest.raises(OSError, match="SlowDown"):
        with_retries(Busy(99, busy), sleep=pauses.append)
    quoting = AnytagError("s3://bucket/503.jpg: cannot be read")
    quoting.__cause__ = ValueError("no photo")
    assert not is_transient(quoting)
    wrapped = AnytagError("s3://bucket/a.jpg: cannot be read")
    wrapped.__cause__ = busy
    assert is_transient(wrapped)


@pytest.mark.parametrize("error", [FileNotFoundError("Connection"), PermissionError("503"), ValueError("no")])
def test_what_is_refused_for_ever_is_not_asked_again(error: Exception) -> None:
    asked = Busy(1, error)
    with pytest.raises(type(error)):
        with_retries(asked, sleep=lambda _: None)
    assert asked.left == 0
