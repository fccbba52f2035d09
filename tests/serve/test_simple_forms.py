"""The client of the tutorial that many start from, as it is, against a real service."""

import base64
import os

import httpx
import pytest

from nemo_image_curate.serve.models import MAX_ITEMS, MAX_K
from tests.serve.pictures import COLOURS, picture
from tests.serve.test_indexing import stripes


@pytest.fixture(scope="module")
def photos(root):
    """Files of the service's machine, below its root, by name."""
    folder = root / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        (folder / name).write_bytes(stripes(900 + number))
    (folder / "red.jpg").write_bytes(picture("red", 1))
    (folder / "page.jpg").write_text("<html>")
    return folder


def post(service, path, status=200, **body):
    answer = httpx.post(service.url + path, timeout=30, **body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_whole_client(service, photos):
    """Its nine calls, in its order."""
    assert httpx.get(f"{service.url}/health").status_code == 200
    paths = [str(photos / name) for name in ("a.png", "b.png", "c.png", "red.jpg")]
    assert post(service, "/index/images", json=paths)["indexed"] == 4
    # No other test's text has their vectors.
    texts = [f"simply {colour} and green" for colour in COLOURS]
    assert post(service, "/index/texts", json=texts)["indexed"] == len(COLOURS)

    by_text = post(service, "/search/text-to-image", json={"query": "red", "n_results": 3})
    assert by_text["query"] == "red"
    assert len(by_text["results"]) == 3
    assert all({"id", "path", "score", "metadata"} <= hit.keys() for hit in by_text["results"])
    assert by_text["results"][0]["score"] >= by_text["results"][1]["score"] > 0.9

    with open(paths[3], "rb") as file:
        found = post(service, "/search/image-to-text?n=50", files={"file": file})["results"]
    best = next(hit for hit in found if hit["text"].startswith("simply"))
    assert best["text"] == "simply red and green"
    assert best["path"] is None

    # The tar has this file, too; both are the picture itself.
    with open(paths[3], "rb") as file:
        found = post(service, "/search/similar-images?n=4", files={"file": file})["results"]
    assert len(found) == 4
    assert {hit["id"] for hit in found} & {"red 1 ü", paths[3]} == set()
    assert {hit["path"] for hit in found} >= {"00000.tar/red 0 ü", "00000.tar/red 2 ü"}

    pair = {"text": "red", "image_path": paths[3]}
    fits = post(service, "/similarity", json=pair)
    assert (fits["text"], fits["image"]) == ("red", paths[3])
    assert fits["similarity"] > 0.9
    stats = httpx.get(f"{service.url}/stats").json()
    assert stats["model"] == "thumb"
    assert stats["embedding_dim"] == 48
    assert stats["images_indexed"] == stats["images"] >= 30 + 4
    assert stats["texts_indexed"] == stats["texts"] >= len(COLOURS)

    problem = post(service, "/index/images", 400, json=["/nowhere/a.jpg", str(photos / "no.jpg")])
    assert "no valid path among 2" in problem["detail"]


def test_an_image_that_was_added_by_its_path_is_found_by_it(service, photos):
    path = str(photos / "b.png")
    post(service, "/index/images", json=[path, path])
    files = {"image": ("again.png", (photos / "a.png").read_bytes(), "image/png")}
    hits = post(service, "/search/similar-images", files=files, data={"top_k": "3"})["results"]
    assert len(hits) == 3
    # Beside what other tests added.
    hits = post(service, "/search/similar-images", files=files, data={"top_k": "1000"})["results"]
    (hit,) = [hit for hit in hits if hit["id"] == path]
    assert hit["path"] == path
    assert httpx.get(service.url + hit["url"]).content == stripes(901)


def test_of_several_paths_those_that_can_be_read_are_added(service, photos, tmp_path):
    (tmp_path / "outside.png").write_bytes(stripes(910))
    paths = [
        str(photos / "a.png"),
        str(photos / "page.jpg"),
        str(photos / "none.jpg"),
        str(tmp_path / "outside.png"),
        str(tmp_path / "nothing.png"),
        str(photos / "a.png"),
        f"{photos}/{'n' * 501}.jpg",
    ]
    for body in (paths, {"paths": paths}):
        answer = post(service, "/index/images", json=body)
        assert (answer["added"], answer["failed"], answer["indexed"]) == (1, 5, 2)
        assert [item["key"] for item in answer["items"]] == paths
        errors = [item["error"] for item in answer["items"]]
        assert errors[0] is errors[5] is None
        assert "not an image" in errors[1]
        assert "No such file" in errors[2]
        # Whether it is there is not told.
        assert errors[3].replace("outside", "nothing") == errors[4]
        assert "more than 500 characters" in errors[6]


@pytest.mark.parametrize("name", ["pipe", "folder", "loop", "zero\0.jpg", "n" * 300, "x/" * 200])
def test_odd_files_are_refused_at_once(service, photos, name):
    if name == "pipe":
        os.mkfifo(photos / name)
    if name == "folder":
        (photos / name).mkdir()
    if name == "loop":
        (photos / name).symlink_to(name)
    path = f"{photos}/{name}"
    assert "no valid path" in post(service, "/index/images", 400, json=[path])["detail"]
    body = {"text": "red", "image_path": path}
    assert "no valid path" in post(service, "/similarity", 400, json=body)["detail"]


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/self/environ", "/dev/stdin", "etc/passwd"])
def test_files_elsewhere_are_refused_at_once(service, path):
    for body in ([path], {"paths": [path]}):
        assert "not below a root" in post(service, "/index/images", 400, json=body)["detail"]
    pair = {"text": "red", "image_path": path}
    assert "not below a root" in post(service, "/similarity", 400, json=pair)["detail"]


def test_names_that_clients_use(service):
    for query in ({"query": "red", "k": 2}, {"text": "red", "top_k": 2}, {"query": "red", "n": 2}):
        assert len(post(service, "/search/text-to-image", json=query)["results"]) == 2
    assert len(post(service, "/search/text-to-image", json={"text": "red", "k": 2})["hits"]) == 2
    assert len(post(service, "/search/text-to-image", json={"query": "red"})["results"]) == 10
    assert post(service, "/index/texts", json={"texts": ["a red one", {"text": "blue"}]})["added"]
    files = {"file": picture("green")}
    for query, data in (("?limit=3", {}), ("?n=3", {}), ("", {"n_results": "3"})):
        url = f"/search/similar-images{query}"
        assert len(post(service, url, files=files, data=data)["results"]) == 3


def test_more_copies_than_are_looked_for_are_shown(service):
    """A bound on what one request reads; and as many hits as asked for."""
    images = [("files", (f"{n}.png", stripes(930))) for n in range(20)]
    keys = [f"copy {n}" for n in range(20)]
    post(service, "/index/images", files=images, data={"keys": keys})
    found = post(service, "/search/similar-images?n=6", files={"file": stripes(930)})["results"]
    assert len(found) == 6
    assert len([hit for hit in found if hit["id"] in keys]) == 4


PICTURE = picture("red")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/search/text-to-image", {"json": {"query": ""}}, 422, "at least 1 character"),
        ("/search/text-to-image", {"json": {"query": "purple"}}, 422, "names no colour"),
        ("/search/text-to-image", {"json": {"query": "red", "n_results": 0}}, 422, "n_results"),
        ("/search/text-to-image", {"json": {"query": "red", "n_results": "3"}}, 422, "integer"),
        ("/search/text-to-image", {"json": {"query": "red", "top_k": MAX_K + 1}}, 422, "1000"),
        ("/search/text-to-image", {"json": {"query": "red", "filter": "x"}}, 422, "filter: Extra"),
        ("/search/text-to-image", {"json": {"query": "red", "n": 1, "k": 2}}, 422, "Extra"),
        ("/search/text-to-image", {"json": ["red"]}, 422, "TextQuery"),
        ("/search/text-to-image", {"data": {"query": "red"}}, 415, "application/json"),
        ("/similarity", {"json": {"text": "red", "image_path": ""}}, 422, "image_path"),
        ("/similarity", {"json": {"text": "red", "image_path": "/" * 5000}}, 422, "at most"),
        ("/similarity", {"json": {"text": "red", "image": "x"}}, 422, "image_path"),
        ("/index/images", {"json": []}, 400, "no valid path among 0: the list is empty"),
        ("/index/images", {"json": [3]}, 422, "string"),
        ("/index/images", {"json": ["x" * 501]}, 400, "more than 500 characters"),
        ("/index/images", {"json": ["x" * 5000]}, 422, "at most 4096"),
        ("/index/images", {"json": ["x"] * (MAX_ITEMS + 1)}, 422, str(MAX_ITEMS)),
        ("/index/images", {"json": {"paths": ["x"], "k": 1}}, 422, "Extra"),
        ("/index/texts", {"json": ["red"] * (MAX_ITEMS + 1)}, 422, str(MAX_ITEMS)),
        ("/index/texts", {"json": [""]}, 422, "at least 1 character"),
        ("/search/similar-images", {"data": {"n": "1"}}, 415, "multipart/form-data"),
        ("/search/similar-images", {"files": {"file": b""}}, 422, "empty"),
        ("/search/similar-images", {"files": {"file": b"<html>"}}, 422, "not an image"),
        ("/search/similar-images", {"files": {"photo": PICTURE}}, 422, "file: Field required"),
        ("/search/similar-images?n=0", {"files": {"file": PICTURE}}, 422, "greater than"),
        ("/search/similar-images?top_k=x", {"files": {"file": PICTURE}}, 422, "integer"),
        ("/search/similar-images?m=2", {"files": {"file": PICTURE}}, 422, "m: Extra"),
        (
            "/search/similar-images?n=2",
            {"json": {"image": {"data": base64.b64encode(PICTURE).decode()}}},
            422,
            "n is for forms",
        ),
        (
            "/search/image-to-text",
            {"files": [("file", PICTURE), ("image", PICTURE)]},
            400,
            "Too many files",
        ),
        (
            "/search/image-to-text",
            {"files": {"file": PICTURE}, "data": {f"f{n}": "1" for n in range(20)}},
            400,
            "Too many fields",
        ),
        ("/search/image-to-text", {"files": {"file": b"x" * 3_000_000}}, 413, "2000000 bytes"),
    ],
)
def test_unusable_requests(service, path, body, status, said):
    problem = post(service, path, status, **body)
    assert problem["status"] == status
    assert said in problem["detail"]


@pytest.mark.parametrize("path", ["/search/similar-images", "/index/images"])
@pytest.mark.parametrize(
    ("parameters", "said"), [("; boundary=a; charset=undefined", "UTF-8"), ("", "no boundary")]
)
def test_forms_that_cannot_be_read(service, path, parameters, said):
    headers = {"Content-Type": f"multipart/form-data{parameters}"}
    form = '--a\r\nContent-Disposition: form-data; name="n"\r\n\r\n3\r\n--a--\r\n'
    assert said in post(service, path, 400, headers=headers, content=form)["detail"]


def test_a_file_in_a_text_field_and_a_text_for_a_file(service):
    problem = post(service, "/search/similar-images", 422, files={"file": (None, "text")})
    assert "file" in problem["detail"]
    files = {"file": PICTURE, "n": PICTURE}
    assert "Too many" in post(service, "/search/similar-images", 400, files=files)["detail"]


def test_without_roots_and_store(bare):
    body = {"text": "red", "image_path": "/data/red.jpg"}
    answer = bare.http.post("/similarity", json=body)
    assert answer.status_code == 400
    assert "reads no files" in answer.json()["detail"]
    assert bare.http.post("/index/images", json=["/data/red.jpg"]).status_code == 409
    assert bare.http.post("/index/texts", json=["red"]).status_code == 409


def test_both_forms_are_documented(service):
    document = httpx.get(f"{service.url}/openapi.json").json()
    for path, kind in (
        ("/search/text-to-image", "SimpleTextQuery"),
        ("/similarity", "SimplePair"),
        ("/index/images", "SimplePaths"),
    ):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert f"#/components/schemas/{kind}" in str(body["schema"]["oneOf"])
        assert body["examples"].keys() == {"ours", "simple"}
        assert kind in document["components"]["schemas"]
    for path in ("/search/similar-images", "/search/image-to-text"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content.keys() == {"multipart/form-data", "application/json"}
