"""Where the rows of a recipe's input went: sums that close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo_image_curate.dataset.accounting import Account
from nemo_image_curate.dataset.conditions import Dropped
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.decode.reasons import MISSING
from nemo_image_curate.recipe.plan import Plan
from nemo_image_curate.recipe.records import Done
from nemo_image_curate.recipe.steps import Step


def counts_of(
    plan: Plan, done: Sequence[Done], account: Account
) -> tuple[dict[str, Any], dict[str, int]]:
    """The counts of all steps, as `RecipeRun` has them, and how many rows each condition dropped.

    Parameters
    ----------
    plan : Plan
    done : sequence of Done
        All of its steps that write something.
    account : Account
        Of the input.
    """
    results = {entry.number: entry.result for entry in done}
    # An index or report that comes last says nothing of rows.
    last = max((number for number, result in results.items() if "rows" in result), default=0)
    rows, total, missing = account.rows_in_sidecars, Dropped(), 0
    images: dict[str, Any] = {}
    pending: list[str] = []
    for planned in plan.steps:
        step, result = planned.step, results.get(planned.number, {})
        if step.name == "filter":
            pending.append(step.options["condition"])
        if "rows" not in result:
            continue
        dropped = _dropped(result)
        if not images and "errors" in result and ERROR_COLUMN in planned.columns:
            images = _images(result, dropped)
        if step.name == "save" or planned.number == last:
            dropped = _explained(
                dropped, rows - result["rows"] - result.get("missing", 0), pending, step
            )
            total = Dropped.total([{"dropped": vars(total)}, {"dropped": vars(dropped)}])
            missing += result.get("missing", 0)
            rows, pending = result["rows"], []
    counts = {
        "written": rows,
        "dropped_by_condition": total.by_condition,
        "dropped_by_null": total.by_null,
        "null_columns": total.null_columns,
        "missing": missing,
        **images,
    }
    return counts, total.conditions


def _explained(dropped: Dropped, gone: int, pending: list[str], step: Step) -> Dropped:
    """What was dropped, all of it by something.

    Parameters
    ----------
    dropped : Dropped
        What was counted while the rows were written.
    gone : int
        How many rows are fewer.
    pending : list of str
        The conditions since the last save.
    step : Step
        What wrote the rows.
    """
    counted = dropped.by_condition + dropped.by_null
    # In the order of the recipe.
    conditions = {
        condition: dropped.conditions[condition]
        for condition in pending
        if condition in dropped.conditions
    }
    named = counted - sum(conditions.values())
    hidden = " and ".join(condition for condition in pending if condition not in conditions)
    if gone > counted or hidden:
        # Other steps have looked at what these left, so that nobody counted.
        conditions = {hidden or "no condition": gone - counted, **conditions}
    if named:
        column = step.options.get("filter_column") or "multiplicity or weight"
        conditions[str(column)] = named
    by_condition = dropped.by_condition + max(0, gone - counted)
    return Dropped(by_condition, dropped.by_null, dropped.null_columns, conditions)


def _images(result: dict[str, Any], dropped: Dropped) -> dict[str, Any]:
    """How many images were read, and how many not, by reason."""
    failed = result["errors"]
    seen = result["rows"] + dropped.by_condition + dropped.by_null
    return {
        "read": seen - sum(failed.values()),
        "unreadable": {kind: count for kind, count in failed.items() if kind != MISSING},
    }


def _dropped(result: dict[str, Any]) -> Dropped:
    if "dropped" in result:
        return Dropped(**result["dropped"])
    null = result.get("null", 0)
    columns, conditions = result.get("null_columns", {}), result.get("conditions", {})
    return Dropped(result.get("filtered", 0) - null, null, columns, conditions)
