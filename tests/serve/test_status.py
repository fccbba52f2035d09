def test_stats(bare):
    bare.http.post("/search/text-to-image", json={"text": "red"})
    for path in ("/a", "/b", "/c"):
        bare.http.get(path)
    found = bare.http.get("/stats").json()
    assert (found["images"], found["texts"], found["store_images"]) == (30, 0, None)
    assert found["encoder"] == "thumb"
    assert (found["captions"], "width" in found["columns"]) == (30, True)
    assert found["indexes"][0]["count"] == 30
    assert found["requests"]["200"] > 0
    latency = found["latency"]["POST /search/text-to-image"]
    assert latency["requests"] > 0
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
    # Any number of unknown paths is one kind.
    assert not {"GET /a", "GET /b", "GET /c"} & set(found["latency"])
    assert found["latency"]["other"]["requests"] >= 3
