"""Sidecars as other programs write them, made by hand: equal as RDF afterwards, but for our words.

exiftool leaves out lists without an item, and writes Microsoft's namespace without the / at its end.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from anytag.metadata import undo, write_keywords
from tests import xmp

pytestmark = xmp.NEEDS_EXIFTOOL

SPACES = {
    "aas": "http://www.aftershot.example/settings/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "darktable": "http://darktable.sf.net/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "unknown": "http://nobody.example/knows/this/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
}


def packet(body: str = "", attributes: str = "") -> str:
    spaces = " ".join(f'xmlns:{name}="{uri}"' for name, uri in SPACES.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/" {spaces}><rdf:RDF>'
        f'<rdf:Description rdf:about="" {attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>'
    )


def items(kind: str, *words: str) -> str:
    return f"<rdf:{kind}>{''.join(f'<rdf:li>{word}</rdf:li>' for word in words)}</rdf:{kind}>"


def step(number: int) -> str:
    return (
        f'<rdf:li darktable:num="{number}" darktable:operation="exposure" darktable:enabled="1" '
        f'darktable:modversion="6" darktable:params="gz02eJxjYGBgYAFi{number}=" darktable:multi_name=""/>'
    )


def face(number: int) -> str:
    return (
        f'<rdf:li><rdf:Description mwg-rs:Name="Person {number}" mwg-rs:Type="Face"><mwg-rs:Area '
        f'stArea:x="0.{number}" stArea:y="0.5" stArea:w="0.1" stArea:h="0.1" stArea:unit="normalized"/>'
        "</rdf:Description></rdf:li>"
    )


FACES = "".join(map(face, range(10)))
DARKTABLE = packet(
    f"<darktable:history><rdf:Seq>"
    f"{''.join(map(step, range(5)))}</rdf:Seq></darktable:history>"
    f"<dc:subject>{items('Bag', 'mine', 'other')}</dc:subject>"
    f"<lr:hierarchicalSubject>{items('Bag', 'a|mine', 'other')}</lr:hierarchicalSubject>",
    'xmp:Rating="3" darktable:xmp_version="5" darktable:raw_params="0" darktable:auto_presets_applied="1" '
    'darktable:history_end="5" darktable:iop_order_version="4" xmpMM:DerivedFrom="a.jpg"',
)
DIGIKAM = packet(
    f"<digiKam:TagsList>{items('Seq', 'People/mine', 'other')}</digiKam:TagsList>"
    f"<dc:subject>{items('Bag', 'mine', 'other')}</dc:subject>"
    f"<MicrosoftPhoto:LastKeywordXMP>{items('Bag', 'People/mine')}</MicrosoftPhoto:LastKeywordXMP>"
    f'<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions stDim:w="64" stDim:h="48" '
    f'stDim:unit="pixel"/><mwg-rs:RegionList><rdf:Bag>{FACES}</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>',
    'digiKam:PickLabel="1" digiKam:ColorLabel="2" xmp:Rating="4"',
)
LIGHTROOM = packet(
    f"<dc:subject>{items('Bag', 'mine', 'other')}</dc:subject>"
    f"<lr:hierarchicalSubject>{items('Bag', 'a|mine', 'other')}</lr:hierarchicalSubject>"
    f"<crs:ToneCurvePV2012>{items('Seq', '0, 0', '128, 140', '255, 255')}</crs:ToneCurvePV2012>"
    '<crs:Look rdf:parseType="Resource"><crs:Name>Adobe Color</crs:Name><crs:Amount>1.000000</crs:Amount>'
    "</crs:Look>",
    'crs:Version="15.4" crs:Exposure2012="+0.35" crs:HasSettings="True" photoshop:SidecarForExtension="JPG" '
    'xmp:MetadataDate="2024-01-02T03:04:05+01:00" xmpMM:DocumentID="xmp.did:1" xmpMM:InstanceID="xmp.iid:2"',
)
FOREIGN = {
    "darktable with its history": DARKTABLE,
    "digiKam with ten faces": DIGIKAM,
    "Lightroom with settings": LIGHTROOM,
    "Capture One with flat words in the tree": packet(
        "<lr:hierarchicalSubject>"
        f"{items('Bag', 'mine', 'other', 'München', 'Munich')}</lr:hierarchicalSubject>",
        'xmp:Rating="5" xmp:Label="Red"',
    ),
    "ON1 with a Seq": packet(f"<dc:subject>{items('Seq', 'mine', 'other')}</dc:subject>"),
    "Apple's export": packet(
        f"<dc:subject>{items('Seq', 'mine', 'other')}</dc:subject><dc:title><rdf:Alt><rdf:li "
        'xml:lang="x-default">A title</rdf:li></rdf:Alt></dc:title><dc:description><rdf:Alt><rdf:li '
        'xml:lang="x-default">A &lt;caption&gt; &amp; more</rdf:li></rdf:Alt></dc:description>',
        'photoshop:DateCreated="2024-01-02T03:04:05+01:00" exif:GPSLatitude="52,30.5N"',
    ),
    "AfterShot": packet(
        f"<dc:subject>{items('Bag', 'mine', 'other')}</dc:subject>",
        'aas:Version="3" aas:Exposure="0.5" aas:Crop="0;0;1;1"',
    ),
    "Immich": packet(
        f"<digiKam:TagsList>{items('Seq', 'mine', 'a/other')}</digiKam:TagsList>",
        'exif:DateTimeOriginal="2024-01-02T03:04:05+01:00" xmp:Rating="2"',
    ),
    "a namespace that nobody knows": packet(
        f"<dc:subject>{items('Bag', 'mine', 'other')}</dc:subject><unknown:Box "
        'rdf:parseType="Resource">'
        "<unknown:Inner>7</unknown:Inner></unknown:Box>"
        f"<unknown:List>{items('Seq', 'b', 'a')}</unknown:List>",
        'unknown:Attribute="x"',
    ),
    "UTF-16": packet(f"<dc:subject>{items('Bag', 'mine', 'other')}</dc:subject>", 'tiff:Artist="Zoë 測試"'),
}


@pytest.mark.parametrize("program", FOREIGN)
def test_all_that_another_program_wrote_stays(tmp_path: Path, program: str) -> None:
    photo = xmp.photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    text = FOREIGN[program]
    if program == "UTF-16":
        sidecar.write_bytes(text.replace('"UTF-8"', '"UTF-16"').encode("utf-16"))
    else:
        sidecar.write_text(text, encoding="utf-8")
    before, words = xmp.rdf(sidecar), xmp.lists(sidecar)
    write_keywords(photo, [("animal", "dog"), "cat"])
    assert xmp.as_json(xmp.rdf(sidecar)) == xmp.as_json(before)
    mine = {"mine", "other"} | ({"München", "Munich"} if "Capture" in program else set())
    found = xmp.lists(sidecar)
    assert set(found[xmp.SUBJECT]) == {*mine, "dog", "cat"}
    for name, separator in ((xmp.TAGS_LIST, "/"), (xmp.TREE, "|")):
        assert {word.split(separator)[-1] for word in found[name]} == {*mine, "dog", "cat"}
    if "Capture" in program:
        assert found[xmp.TREE] == ["mine", "other", "München", "Munich", "animal|dog", "cat"]
    undo(photo)
    assert xmp.as_json(xmp.rdf(sidecar)) == xmp.as_json(before)
    after = xmp.lists(sidecar)
    assert {name: after.get(name) for name in xmp.FIELDS} == {name: words.get(name) for name in xmp.FIELDS}
