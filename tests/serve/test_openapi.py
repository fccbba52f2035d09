import re

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

ENDPOINTS = {
    ("POST", "/index/images"),
    ("POST", "/index/texts"),
    ("POST", "/search/text-to-image"),
    ("POST", "/search/image-to-text"),
    ("POST", "/search/similar-images"),
    ("POST", "/search/hybrid"),
    ("POST", "/similarity"),
    ("GET", "/stats"),
    ("GET", "/health"),
    ("GET", "/images/{key}"),
}
# All but "positive_data_acceptance": that a text names a colour, or bytes are an image, is
# nothing that a schema can say.
CHECKS = (
    not_a_server_error,
    checks.content_type_conformance,
    checks.negative_data_rejection,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
    checks.unsupported_method,
)


@pytest.fixture(scope="module")
def schema(service):
    return schemathesis.openapi.from_url(service.url + "/openapi.json")


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (*endpoint, mode)
        for endpoint in sorted(ENDPOINTS)
        for mode in GenerationMode
        # Without parameters no request is wrong.
        if mode.is_positive or endpoint not in {("GET", "/health"), ("GET", "/stats")}
    ],
)
def test_requests_of_all_kinds(schema, method, path, mode):
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=50,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        case.call_and_validate(checks=CHECKS)

    check()


def test_the_document_is_whole(bare):
    document = httpx.get(bare.url + "/openapi.json").json()
    found = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found.add((method.upper(), path))
            assert operation["description"]
            errors = {status for status in operation["responses"] if status != "200"}
            assert {"421", "500"} <= errors
            for status in errors:
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"]
    assert found == ENDPOINTS
    body = document["paths"]["/index/images"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    query = document["components"]["schemas"]["TextQuery"]["properties"]
    assert query["k"]["maximum"] == 1000
    assert query["text"]["examples"]
    assert document["security"] == [{"token": []}]
    # Every name that is referred to is there.
    text = httpx.get(bare.url + "/openapi.json").text
    for name in text.split('"#/components/schemas/')[1:]:
        assert name.partition('"')[0] in document["components"]["schemas"]


def test_documentation_page_needs_nothing_from_elsewhere(bare):
    page = httpx.get(bare.url + "/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    assert "http" not in page.text.replace(bare.url, "")
    links = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert {link.rpartition(".")[2] for link in links} == {"js", "css"}
    for link in links:
        assert len(httpx.get(bare.url + link).content) > 100_000
    for path in ("/docs/files/../../stats", "/docs/files/%2e%2e/__init__.py", "/docs/files/"):
        assert httpx.get(bare.url + path).status_code in (401, 404)
