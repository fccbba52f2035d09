import json
import os

import httpx
import pytest

from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import Settings, create_app
from tests.serve.asking import ask_app, raw, status_of
from tests.serve.pictures import ColourEmbedder, picture

MEGABYTE = 10**6


def similar(service, path):
    answer = service.http.post("/search/similar-images", json={"image": {"path": str(path)}})
    return answer.status_code, answer.text


def test_files_below_a_root(service, root):
    (root / "folder").mkdir()
    (root / "folder" / "red.jpg").write_bytes(picture("red", 4))
    (root / "link.jpg").symlink_to("folder/red.jpg")
    for name in ("folder/red.jpg", "link.jpg", "folder/../folder/./red.jpg"):
        status, text = similar(service, root / name)
        assert status == 200
        assert json.loads(text)["hits"][0]["key"] == "red 4 ü"


def test_files_elsewhere(service, root, tmp_path):
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(picture("red"))
    (root / "out.jpg").symlink_to(outside)
    (root / "outdir").symlink_to(tmp_path)
    beside = root.with_name(root.name + "-beside")
    beside.mkdir()
    (beside / "x.jpg").write_bytes(picture("red"))
    inside = root / "x"
    for path in (
        outside,
        root / "out.jpg",
        root / "outdir" / "outside.jpg",
        beside / "x.jpg",
        f"{inside}/../../{beside.name}/x.jpg",
        "/etc/passwd",
        "/proc/self/environ",
        "relative.jpg",
        # Whether it is there is not told either.
        "/nowhere/at/all.jpg",
    ):
        status, text = similar(service, path)
        assert status == 403, path
        assert "not below a root" in text


def test_odd_files_below_a_root(service, root):
    os.mkfifo(root / "pipe")
    (root / "large.jpg").write_bytes(b"x" * 3 * MEGABYTE)
    (root / "page.jpg").write_text("<html>")
    for name, status in (
        ("pipe", 404),
        ("", 404),
        ("none.jpg", 404),
        ("zero\0.jpg", 404),
        ("n" * 4000, 404),
        ("large.jpg", 413),
        ("page.jpg", 422),
    ):
        assert similar(service, f"{root}/{name}")[0] == status, name


def test_no_roots_no_files(bare, root):
    status, text = similar(bare, root / "any.jpg")
    assert status == 403
    assert "reads no files" in text


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer wrong",
        "Bearer s3crets",
        "Bearer s3cre",
        "Bearer",
        "s3cret",
        "Basic s3cret",
        "Bearer s3cret, Bearer x",
        "Bearer \xff\xfe",
    ],
)
def test_token(bare, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (
        ("POST", "/search/text-to-image"),
        ("POST", "/index/images"),
        ("GET", "/stats"),
        ("GET", "/images/x"),
        ("GET", "/nowhere"),
    ):
        answer = httpx.request(method, bare.url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
    assert httpx.get(bare.url + "/health", headers=headers).status_code == 200


def test_pages_of_other_sites_may_not_post(service):
    body = {"files": {"files": picture("red")}}
    for origin, status in (
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        (service.url, 200),
    ):
        answer = service.http.post("/index/images", headers={"Origin": origin}, **body)
        assert answer.status_code == status, origin
    answer = service.http.get("/stats", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("cors_origins", "origin", "status"),
    [
        (["https://friend.example"], "https://friend.example", 200),
        (["https://friend.example"], "https://friend.exampl", 403),
        (["https://friend.example"], "https://friend.example.evil", 403),
        (["https://friend.example"], "http://friend.example", 403),
        (["https://friend.example"], "null", 403),
        ([], "http://localhost", 200),
        ([], "http://localhost:1", 403),
        ([], "http://127.0.0.1", 403),
        # No URL at all.
        ([], "http://[", 403),
        (["*"], "https://any.example", 200),
        (["*"], "null", 200),
    ],
)
def test_origins(cors_origins, origin, status):
    searcher = Searcher(ColourEmbedder(), [])
    app = create_app(searcher, settings=Settings(token=None, cors_origins=cors_origins))
    headers = {"Origin": origin}
    answer = ask_app(app, "POST", "/search/text-to-image", json={"text": "red"}, headers=headers)
    assert answer.status_code == status
    allowed = answer.headers.get("access-control-allow-origin")
    assert (allowed in (origin, "*")) is (status == 200 and bool(cors_origins))


def test_bodies_that_are_too_large(service):
    # Told by the header: refused before anything is sent.
    declared = raw(service, "POST /index/images HTTP/1.1\r\nContent-Length: 99999999999")
    assert status_of(declared) == 413
    # Not told: refused when there is too much of it.
    head = "POST {} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: {}"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for path, kind in (
        ("/index/images", "application/json"),
        ("/search/text-to-image", "application/json"),
        ("/index/images", "multipart/form-data; boundary=x"),
    ):
        connection = raw(service, head.format(path, kind))
        if "boundary" in kind:
            part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        try:
            for _ in range(2 * MEGABYTE // 0x10000 + 2):
                connection.sendall(chunk)
        except ConnectionError:
            pass
        assert status_of(connection) == 413, (path, kind)
    assert service.http.get("/health").status_code == 200


def test_other_methods_and_paths(service):
    answer = service.http.get("/search/hybrid")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["title"] == "Method Not Allowed"
    assert answer.json()["detail"] == "/search/hybrid is not for GET; /docs lists what there is."
    nowhere = service.http.get("/nowhere").json()
    assert (nowhere["status"], nowhere["detail"].partition(";")[0]) == (
        404,
        "there is nothing at /nowhere",
    )
    assert service.http.patch("/health").status_code == 405
