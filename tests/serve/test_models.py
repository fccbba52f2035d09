"""What requests may say: that the schema, Python and the command line allow the same."""

import dataclasses
import inspect
import math

import pytest
from pydantic import ValidationError

from nemo_image_curate.cli.search import search as command
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.search.query import Query
from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import models

QUERIES = [models.TextQuery, models.ImageQuery, models.CaptionQuery, models.HybridQuery]
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Query)}


def allows(check, *refusals) -> bool:
    try:
        check()
    except refusals:
        return False
    return True


@pytest.mark.parametrize("value", [-1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, 1.0000001, 2.0, 1000.0])
@pytest.mark.parametrize("name", ["collapse", "text_weight", "image_weight", "negative_weight"])
def test_numbers_that_http_and_python_allow(name, value):
    options = {"text": "red", name: value}
    by_http = allows(lambda: models.HybridQuery.model_validate(options), ValidationError)
    assert by_http == allows(Query(**options).check, ConfigError)
    for unusable in (math.nan, math.inf, True, "1"):
        with pytest.raises(ValidationError):
            models.HybridQuery.model_validate({**options, name: unusable})


@pytest.mark.parametrize("k", [-1, 0, 1, 2, models.MAX_K])
def test_counts_that_http_and_python_allow(k):
    options = {"text": "red", "k": k}
    by_http = allows(lambda: models.TextQuery.model_validate(options), ValidationError)
    assert by_http == allows(Query(**options).check, ConfigError)


def test_defaults_are_the_same_everywhere():
    parameters = inspect.signature(Searcher.search).parameters
    assert {name: one.default for name, one in parameters.items() if name != "self"} == DEFAULTS
    for model in QUERIES:
        for name, one in model.model_fields.items():
            assert one.is_required() or one.default == DEFAULTS[name], (model, name)
    options = command.make_context("search", ["DATASET"]).params
    shared = DEFAULTS.keys() & options.keys()
    assert {name: options[name] for name in shared} == {name: DEFAULTS[name] for name in shared}


@pytest.mark.parametrize("model", QUERIES)
def test_every_option_is_one_of_a_query(model):
    assert set(model.model_fields) <= set(DEFAULTS)


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (models.TextQuery, lambda many: many),
        (models.NewTexts, lambda many: {"texts": [{"text": "red", "metadata": many}]}),
        (models.NewTexts, lambda many: {"texts": [many]}),
    ],
)
def test_many_wrong_fields_are_few_errors(model, body):
    """To list a million of them kept the service from all others for a minute."""
    many = {f"field {number}": [] for number in range(models.MAX_FIELDS + 1)}
    with pytest.raises(ValidationError, match="no more than 50") as caught:
        model.model_validate(body(many))
    assert caught.value.error_count() <= 2
