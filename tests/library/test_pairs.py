from __future__ import annotations

import pytest

from anytag.library.pairs import seconds


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "a.png", "b.heic"], {}),
        (["a.jpg", "A.CR2", "b.NEF"], {"A.CR2": "a.jpg"}),
        (["a.heic", "a.dng", "a.jpg"], {"a.dng": "a.jpg"}),
        (["IMG_1234.HEIC", "IMG_E1234.JPG"], {"IMG_1234.HEIC": "IMG_E1234.JPG"}),
        (
            ["IMG_1234.DNG", "IMG_1234.JPG", "IMG_E1234.JPG"],
            {"IMG_1234.DNG": "IMG_E1234.JPG", "IMG_1234.JPG": "IMG_E1234.JPG"},
        ),
        (["IMG_E1234.JPG"], {}),
        (
            ["PXL_1.RAW-01.COVER.jpg", "PXL_1.RAW-02.ORIGINAL.dng", "PXL_2.RAW-01.MP.COVER.jpg", "PXL_2.jpg"],
            {"PXL_1.RAW-02.ORIGINAL.dng": "PXL_1.RAW-01.COVER.jpg"},
        ),
        (["a.dng", "a.nef"], {}),
    ],
)  # fmt: skip
def test_files_of_one_shot_have_one_that_stands_for_them(names: list[str], expected: dict[str, str]) -> None:
    assert seconds(names) == seconds(names[::-1]) == expected
