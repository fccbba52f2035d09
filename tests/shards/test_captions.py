"""Tables of captions, and which image each line means."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.captions import match_names, read_captions
from nemo_image_curate.shards.loose import LooseImage


def write(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_captions_by_file_name(tmp_path):
    path = write(
        tmp_path / "c.csv",
        'image,caption\na.jpg,one\n"b, c.jpg","with ""quotes"", and\na second line"\na.jpg,two\n'
        "größe 猫.webp,画像\nempty.jpg,\n",
    )
    assert read_captions(path) == {
        "a.jpg": ["one", "two"],
        "b, c.jpg": ['with "quotes", and\na second line'],
        "größe 猫.webp": ["画像"],
        "empty.jpg": [""],
    }


@pytest.mark.parametrize(
    "header", ["image,caption", "File,Text", "note,file_name,caption", "caption,path"]
)
def test_columns_go_by_several_names_and_stand_anywhere(tmp_path, header):
    values = {"image": "a.jpg", "file": "a.jpg", "file_name": "a.jpg", "path": "a.jpg"}
    values |= {"caption": "x", "text": "x", "note": "-"}
    line = ",".join(values[name.lower()] for name in header.split(","))
    path = write(tmp_path / "c.csv", f"{header}\r\n{line}\r\n", "utf-8-sig")
    assert read_captions(path) == {"a.jpg": ["x"]}


def test_csv_files_that_are_none(tmp_path):
    with pytest.raises(DatasetError, match=r"it has: image, label"):
        read_captions(write(tmp_path / "c.csv", "image,label\na.jpg,x\n"))
    with pytest.raises(DatasetError, match=r"needs a column of file names"):
        read_captions(write(tmp_path / "e.csv", ""))
    with pytest.raises(DatasetError, match=r"nowhere\.csv"):
        read_captions(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_are_certain(tmp_path, encoding):
    path = write(tmp_path / "c.csv", "image,caption\na.jpg,größe 猫\n", encoding)
    assert read_captions(path) == {"a.jpg": ["größe 猫"]}


@pytest.mark.parametrize(
    ("encoding", "byte"),
    [("latin-1", "0xf6"), ("shift_jis", "0x83"), ("utf-16-le", "0x00"), ("utf-16-be", "0x00")],
)
def test_other_encodings_are_told_by_line_and_byte(tmp_path, encoding, byte):
    text = "größe" if encoding == "latin-1" else "ラーメン"
    path = write(tmp_path / "c.csv", f"image,caption\na.jpg,x\nb.jpg,{text}\n", encoding)
    line = 1 if encoding.startswith("utf-16") else 3
    message = (
        rf"c\.csv: line {line} holds the byte {byte}, which is not UTF-8.*--encoding.*iconv -f"
    )
    with pytest.raises(DatasetError, match=message):
        read_captions(path)
    assert read_captions(path, encoding)["b.jpg"] == [text]


def test_an_encoding_that_is_wrong(tmp_path):
    path = write(tmp_path / "c.csv", "image,caption\na.jpg,größe\n", "latin-1")
    with pytest.raises(DatasetError, match="line 2 holds the byte 0xf6, which is not ascii"):
        read_captions(path, "ascii")
    with pytest.raises(ConfigError, match="encoding='hex' is no encoding of texts"):
        read_captions(path, "hex")
    # A byte order mark counts more.
    path = write(tmp_path / "m.csv", "image,caption\na.jpg,größe\n", "utf-16")
    assert read_captions(path, "latin-1") == {"a.jpg": ["größe"]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0.jpg,A dog, running, on grass", "1.jpg,plain"], r"1 of 2 rows.*line 2 \(4\)"),
        (["0.jpg,plain", "1.jpg,a, b", "2.jpg"], r"2 of 3 rows.*line 3 \(3\), line 4 \(1\)"),
        (['0.jpg,"two', 'lines"', "1.jpg,a, b"], r"1 of 2 rows.*line 4 \(3\)"),
        (
            ["0.jpg,plain", '1.jpg,"A dog', "2.jpg,plain", "3.jpg,x"],
            "line 3: a quote is not closed",
        ),
        (['0.jpg,"A dog', '1.jpg,"A cat"'], "line 2: a quote is not closed"),
        (['0.jpg,"A "large" dog"'], "line 2: a quote is not closed, or something stands behind"),
    ],
)
def test_loose_commas_and_quotes_are_refused_with_their_lines(tmp_path, lines, message):
    path = write(tmp_path / "c.csv", "\n".join(["image,caption", *lines, ""]))
    with pytest.raises(DatasetError, match=message):
        read_captions(path)


def test_separators_by_the_header_and_captions_of_any_length(tmp_path, caplog):
    text = "x" * 1_000_000
    path = write(tmp_path / "c.tsv", f"id\timage\tcaption\n7\ta.jpg\tA dog, {text}\n")
    assert read_captions(path) == {"a.jpg": [f"A dog, {text}"]}
    assert "columns that are left out: id" in caplog.text
    path = write(tmp_path / "c.csv", "image;caption\r\n\r\na.jpg;A dog, running\r\n")
    assert read_captions(path) == {"a.jpg": ["A dog, running"]}
    path = write(tmp_path / "m.csv", 'image,caption\ra.jpg,5" nails\r')
    assert read_captions(path) == {"a.jpg": ['5" nails']}


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_what_csv_writes_is_read(tmp_path_factory, pairs):
    import csv

    pairs = [
        tuple(text.encode("utf-8", "ignore").decode().replace("\0", "") for text in pair)
        for pair in pairs
    ]
    path = tmp_path_factory.mktemp("csv") / "c.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("image", "caption"), *pairs])
    expected: dict[str, list[str]] = {}
    for name, caption in pairs:
        expected.setdefault(name, []).append(caption)
    assert read_captions(path) == expected


def images(*names: str, root: str = "/data/photos") -> list[LooseImage]:
    return [LooseImage(Path(root, name), name) for name in names]


@pytest.mark.parametrize(
    "name",
    [
        "sub/a.JPG",
        "./sub/a.JPG",
        "sub\\a.JPG",
        "a.JPG",
        "photos/sub/a.JPG",
        "/data/photos/sub/a.JPG",
        "C:\\old\\sub\\a.JPG",
        "/elsewhere/sub/a.JPG",
        "a.jpg",
        "SUB/A.jpg",
        "a",
        "sub/A",
        " a.JPG ",
    ],
)
def test_names_that_can_mean_one_image_only(name):
    matches = match_names(images("sub/a.JPG", "sub/b.jpg"), {name: ["x"]})
    assert matches.captions == {0: ["x"]}
    assert not matches.unmatched
    assert not matches.ambiguous


def test_letters_that_are_composed_otherwise():
    assert match_names(images("gro\u0308\u00dfe.jpg"), {"gr\u00f6\u00dfe.jpg": ["x"]}).captions == {
        0: ["x"]
    }


@pytest.mark.parametrize("name", ["c.jpg", "other/a.jpg", "a.png", "", "jpg", "sub", "a.jpg.bak"])
def test_names_that_mean_no_image(name):
    matches = match_names(images("sub/a.jpg", "sub/b.jpg"), {name: ["x"]})
    assert matches.unmatched == [name]
    assert not matches.captions


def test_names_that_could_mean_several():
    both = images("a/0.jpg", "b/0.jpg", "c/1.jpg", "c/1.png")
    matches = match_names(both, {"0.jpg": ["x"], "1": ["x"], "b/0.jpg": ["y"], "c/1.png": ["z"]})
    assert matches.ambiguous == ["0.jpg", "1"]
    assert matches.captions == {1: ["y"], 3: ["z"]}


def test_an_image_that_several_names_could_mean():
    matches = match_names(images("0.jpg", "1.jpg"), {"a/0.jpg": ["x"], "b/0.jpg": ["y"]})
    assert sorted(matches.ambiguous) == ["a/0.jpg", "b/0.jpg"]
    assert not matches.captions
    # Its very name counts more, and two spellings of one name are several captions.
    captions = {"0.jpg": ["x"], "b/0.jpg": ["y"], "./1.jpg": ["p"], ".\\1.jpg": ["q"]}
    matches = match_names(images("0.jpg", "1.jpg"), captions)
    assert matches.captions == {0: ["x"], 1: ["p", "q"]}
    assert matches.ambiguous == ["b/0.jpg"]
