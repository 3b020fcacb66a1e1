"""PASCAL VOC: the real subset, a tiny set of the same layout, and everything that can be wrong with one."""

import os
import warnings
from urllib.error import URLError

import pytest
import torch

import voc_files
from fptt import InputError
from fptt.data import annotations, voc
from fptt.data.boxes import PADDING

pytest.importorskip("defusedxml")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("squares")


@pytest.fixture
def tiny(tmp_path, torchvision):
    return voc_files.write(tmp_path / "own")


@pytest.mark.parametrize(
    ("train", "sizes"),
    [
        ("07+12 train", (579 + 1104, 186 + 1094, 1000)),
        ("07+12 trainval", (765 + 2198, 0, 1000)),
    ],
)
def test_the_real_subset(data, torchvision, cache, train, sizes):
    sets = voc.sets(data, 16, train, cache)
    assert tuple(len(one) for one in sets) == sizes and [one.name for one in sets] == ["train", "validation", "test"]
    for one in sets:
        assert one.x[torch.arange(min(3, len(one)))].shape[1:] == (3, 16, 16) and one.x.dtype == torch.uint8
        assert (one.y[..., 0] >= 0).any(1).all(), "every image of VOC holds an object"
        objects = one.y[one.y[..., 0] >= 0]
        assert (objects[:, 1:5] >= 0).all() and (objects[:, 1:5] <= 16).all() and (objects[:, 3:5] > objects[:, 1:3]).all()
        assert (one.y[one.y[..., 0] < 0] == PADDING).all()
        if len(one) >= 765:
            assert objects[:, 0].unique().tolist() == list(range(20))


def test_real_boxes_lie_where_the_annotation_says(data):
    """VOC2007's first image, 500 x 375: five chairs, two of them difficult."""
    noted = annotations.read(data / "VOCdevkit" / "VOC2007" / "Annotations" / "000005.xml")
    assert noted.size == (500, 375) and [thing.name for thing in noted.objects] == ["chair"] * 5
    assert noted.objects[0].box == (262, 210, 324, 339) and [thing.difficult for thing in noted.objects] == [0, 0, 1, 0, 1]
    square, rows, clipped = annotations.letterboxed_sample(
        data / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000005.jpg", 100, voc.CLASSES
    )
    assert rows[0].tolist() == pytest.approx([voc.CLASSES.index("chair"), 52.4, 12 + 42, 64.8, 12 + 67.8, 0])
    assert clipped == 0 and (square[:, :12] == 128).all() and (square[:, -13:] == 128).all()


def test_a_folder_of_ones_own(tiny, cache):
    train, validation, test = voc.own(tiny, 64, cache=cache)
    assert voc.classes_of(tiny) == ("ant", "mole", "zebra")
    assert [len(one) for one in (train, validation, test)] == [3, 1, 2]
    assert train.y.shape == (3, 2, 6)
    scale = 64 / 40
    first = [[2, 4, 5, 20, 25, 0], [0, 0, 0, 40, 30, 1]]
    expected = [[n, *(scale * side + shift for side, shift in zip(box, (0, 8, 0, 8), strict=True)), d] for n, *box, d in first]
    assert torch.allclose(train.y[0], torch.tensor(expected))
    assert (train.y[2] == PADDING).all(), "an image without objects"
    image, (label, x1, y1, x2, y2, _) = test.x[0], test.y[0, 0].tolist()
    assert (label, x1, y1, x2, y2) == (1, 32, 16, 64, 32)
    red = (image[0] > 170) & (image[1] < 80)
    assert red[17:31, 33:63].all() and not red[:, :31].any() and not red[34:].any()


def test_classes_may_be_given_and_lists_of_several_folders_joined(tiny, tmp_path, cache):
    classes = ("zebra", "mole", "ant", "yak")
    assert voc.own(tiny, 32, classes, cache)[0].y[0, 0, 0] == 0
    other = voc_files.write(tmp_path / "other", {"train": {"z": (20, 20, [])}, "test": {"y": (9, 9, [])}})
    train, validation, test = voc.load([tiny, other], ("train", "val", "test"), 32, classes, cache)
    assert [len(one) for one in (train, validation, test)] == [4, 1, 3]


def test_without_a_list_for_validation(tiny, cache):
    (tiny / "ImageSets" / "Main" / "val.txt").unlink()
    assert [len(one) for one in voc.own(tiny, 32, cache=cache)] == [3, 0, 2]


def test_images_are_read_once_and_again_when_a_file_changes(tiny, tmp_path, monkeypatch):
    first = voc.own(tiny, 32, cache=tmp_path / "cache")[0]
    monkeypatch.setattr(annotations, "letterboxed_sample", None)
    again = voc.own(tiny, 32, cache=tmp_path / "cache")[0]
    assert torch.equal(first.x[torch.arange(3)], again.x[torch.arange(3)]) and torch.equal(first.y, again.y)
    monkeypatch.undo()
    (tiny / "Annotations" / "a.xml").write_text(voc_files.xml(40, 30, [("ant", 1, 1, 2, 2, 0)]))
    assert voc.own(tiny, 32, cache=tmp_path / "cache")[0].y[0, :, 0].tolist() == [0]
    voc.own(tiny, 48, cache=tmp_path / "cache")
    voc.own(tiny, 48, ("zebra", "mole", "ant"), cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def rewrite(name, *objects, width=40, height=30):
    return lambda folder: (folder / "Annotations" / f"{name}.xml").write_text(voc_files.xml(width, height, objects))


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, length):
    return lambda folder: os.truncate(folder / name, length)


def remove(name):
    return lambda folder: (folder / name).unlink()


BOMB = b'<!DOCTYPE lol [<!ENTITY lol "lol"><!ENTITY lots "&lol;&lol;">]><annotation><folder>&lots;</folder></annotation>'
NO_BOX = b"<annotation><object><name>ant</name></object></annotation>"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rewrite("a", ("ant", 10, 10, 9, 20, 0)), r"Annotations/a.xml is damaged \(the box of 'ant' runs"),
        (
            rewrite("a", ("ant", 41, 1, 50, 10, 0)),
            r"a.xml: the box of 'ant', .*, lies outside its image of 40 x 30",
        ),
        (rewrite("a", ("ant", -9, 1, 0, 10, 0)), "a.xml: the box of 'ant', .*, lies outside its image"),
        (rewrite("a", ("ant", 1, 1, "nan", 10, 0)), "Annotations/a.xml is damaged .*nan"),
        (rewrite("a", ("ant", 1, 1, "wide", 10, 0)), "Annotations/a.xml is damaged .*'wide'"),
        (rewrite("a", ("", 1, 1, 9, 10, 0)), r"Annotations/a.xml is damaged \(its object lacks name\)"),
        (rewrite("a", ("yeti", 1, 1, 9, 10, 0)), "Annotations/a.xml: unknown class 'yeti', not one of ant, mole, zebra"),
        (rewrite("a", width=30, height=40), r"Annotations/a.xml is of an image of \(30, 40\), but .*a.jpg has .*\(40, 30\)"),
        (put("Annotations/a.xml", NO_BOX), r"Annotations/a.xml is damaged \(its object lacks bndbox/xmin\)"),
        (put("Annotations/a.xml", BOMB), "Annotations/a.xml is damaged .*DTDForbidden"),
        (put("Annotations/a.xml", b"<html></html>"), "Annotations/a.xml is damaged .*html"),
        (put("Annotations/a.xml", b""), "Annotations/a.xml is damaged .*no element"),
        (put("Annotations/a.xml", b'<?xml version="1.0" encoding="foo"?><a/>'), "Annotations/a.xml is damaged .*foo"),
        (cut("Annotations/a.xml", 60), "Annotations/a.xml is damaged"),
        (remove("Annotations/a.xml"), "Annotations/a.xml is missing .*a list names it"),
        (remove("JPEGImages/f.jpg"), "JPEGImages/f.jpg is missing"),
        (cut("JPEGImages/f.jpg", 500), "JPEGImages/f.jpg cannot be read as an image"),
        (cut("JPEGImages/f.jpg", 0), "JPEGImages/f.jpg cannot be read as an image"),
        (put("JPEGImages/f.jpg", b"<html>404 not found</html>"), "JPEGImages/f.jpg cannot be read as an image"),
        (remove("ImageSets/Main/test.txt"), "no image to test on: .*Main/test.txt is missing or empty"),
        (put("ImageSets/Main/train.txt", b"\n"), "no image to train on: .*Main/train.txt is missing or empty"),
        (put("ImageSets/Main/train.txt", b"\xff\xfe\x00"), "cannot read .*train.txt"),
        (
            put("ImageSets/Main/test.txt", b"e\na\n"),
            "a.jpg is both in train.txt and in test.txt: train on one, test on another",
        ),
        (put("ImageSets/Main/train.txt", b"a\nmissing\n"), "JPEGImages/missing.jpg is missing"),
    ],
)
def test_what_can_be_wrong(tiny, tmp_path, damage, message):
    damage(tiny)
    with pytest.raises(InputError, match=message) as error:
        voc.own(tiny, 32, ("ant", "mole", "zebra"), tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("*")), "nothing half-written is kept"


def test_boxes_that_reach_beyond_their_image_are_clipped_with_one_warning(tiny, tmp_path):
    rewrite("a", ("ant", 0, 0, 20, 20, 0), ("ant", 5, 5, 45, 31, 0), ("ant", 5, 5, 40, 30, 0))(tiny)
    with pytest.warns(UserWarning, match="^fptt: 2 boxes reached beyond their images and were clipped$"):
        train = voc.own(tiny, 40, cache=tmp_path / "cache")[0]
    assert train.y[0, :, 1:5].tolist() == [[0, 5, 20, 25], [4, 9, 40, 35], [4, 9, 40, 35]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        voc.own(tiny, 40, cache=tmp_path / "cache")


def test_annotations_without_a_size_or_difficult_flag(tiny, tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>10</xmax><ymax> 20 </ymax></bndbox>"
    put("Annotations/a.xml", f"<annotation><object><name>\nant </name>{box}</object></annotation>".encode())(tiny)
    assert annotations.read(tiny / "Annotations" / "a.xml").objects == [("ant", (0, 1.5, 10, 20), False)]
    assert len(voc.own(tiny, 32, cache=tmp_path)[0]) == 3


def test_grey_images_have_three_channels(tiny, tmp_path):
    path = tiny / "JPEGImages" / "c.jpg"
    with voc_files.Image.open(path) as image:
        image.convert("L").save(path)
    square = voc.own(tiny, 32, cache=tmp_path / "cache")[0].x[2]
    assert square.shape == (3, 32, 32) and torch.equal(square[0], square[2])


def test_a_folder_without_annotations(tmp_path):
    with pytest.raises(InputError, match="Annotations names no object"):
        voc.classes_of(tmp_path)


def test_missing_sets_are_fetched(tmp_path, torchvision, monkeypatch):
    fetched = []

    def fetch(url, root, filename, md5):
        fetched.append(filename)
        year = "2012" if "2012" in filename else "2007"
        lists = {"test": {f"{year}t": (9, 9, [])}} if "test" in filename else {
            name: {f"{year}{name}": (9, 9, [("cow", 1, 1, 5, 5, 0)])} for name in ("train", "val")
        }  # fmt: skip
        voc_files.write(tmp_path / "VOCdevkit" / f"VOC{year}", lists)

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", fetch)
    assert [len(one) for one in voc.sets(tmp_path, 8)] == [2, 2, 1]
    assert [len(one) for one in voc.sets(tmp_path, 8, "07 train")] == [1, 1, 1]
    assert fetched == ["VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar"]


def test_of_2012_nothing_is_tested_on(tmp_path, torchvision):
    for year in ("2007", "2012"):
        lists = {name: {f"{year}{name}": (9, 9, [("cow", 1, 1, 5, 5, 0)])} for name in ("train", "val", "test")}
        voc_files.write(tmp_path / "VOCdevkit" / f"VOC{year}", lists)
    (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "2012test.xml").unlink()  # the publishers keep it
    assert [len(one) for one in voc.sets(tmp_path, 8)] == [2, 2, 1]
    assert [path.stem for path in voc.listed(tmp_path, "test")] == ["2007test"]


def test_names_with_spaces_and_flags(tiny, cache):
    for kind, folder in (("jpg", "JPEGImages"), ("xml", "Annotations")):
        (tiny / folder / f"b.{kind}").rename(tiny / folder / f"my b 1.{kind}")
    (tiny / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xef\xbb\xbfa  1\r\nmy b 1\r\nc -1\r\nc\r\nmy b 1 -1\r\n")
    assert [len(one) for one in voc.own(tiny, 32, cache=cache)] == [3, 1, 2]


def test_missing_sets_that_cannot_be_fetched(tmp_path, torchvision, monkeypatch):
    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", no_network)
    with pytest.raises(InputError, match=r"^PASCAL VOC 2007 train is not under .*could not be fetched .*no network.*--data"):
        voc.sets(tmp_path, 8)
