#!/usr/bin/env python3
"""Draw docs/images/rules.svg: what each rule of deduplication removes of the same six points.

.venv/bin/python ci/docs_rules.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nemo_image_curate.dedup.rules import RULES, Pairs, decide

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "rules.svg"
# By number, which is the keep order. Two nearer than NEAR are duplicates.
POINTS = {1: (50, 62), 2: (60, 128), 3: (95, 92), 4: (148, 112), 5: (170, 50), 6: (205, 78)}
NEAR = 60
PANEL = (240, 190)
STYLE = """
  svg { --text: #1b1f24; --muted: #57606a; --ground: #ffffff; --line: #d8dee4; --stays: #0f766e;
    --goes: #b91c1c; font-family: system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) {
    svg { --text: #e6edf3; --muted: #9aa7b2; --ground: #0f1417; --line: #2b343c; --stays: #2dd4bf;
      --goes: #f87171; } }
  .ground { fill: var(--ground); } .pair { stroke: var(--muted); stroke-width: 1.5; }
  .panel { fill: none; stroke: var(--line); }
  .stays { fill: var(--stays); } .goes { fill: var(--ground); stroke: var(--goes);
    stroke-width: 2; stroke-dasharray: 4 3; }
  text { fill: var(--text); font-size: 13px; text-anchor: middle; dominant-baseline: central; }
  .on { fill: var(--ground); font-weight: 600; } .off { fill: var(--goes); }
  .rule { font-weight: 600; font-size: 14px; } .small { fill: var(--muted); font-size: 12px; }
"""


def pairs() -> Pairs:
    """Which points are duplicates of which, by rank."""
    near = [
        (later - 1, earlier - 1)
        for later, at in POINTS.items()
        for earlier, other in POINTS.items()
        if earlier < later and np.hypot(at[0] - other[0], at[1] - other[1]) < NEAR
    ]
    ranks = np.array(near)
    return Pairs(ranks[:, 0], ranks[:, 1], np.ones(len(near), np.float32))


def panel(rule: str, left: int) -> list[str]:
    """One rule's picture."""
    near_pairs = pairs()
    goes = decide(rule, near_pairs, len(POINTS)).duplicate_of >= 0
    width, height = PANEL
    parts = [
        f'<g transform="translate({left} 0)">',
        f'<rect class="panel" x="4" y="4" width="{width - 8}" height="{height - 8}" rx="8"/>',
        f'<text class="rule" x="{width / 2}" y="24">{rule}</text>',
    ]
    for later, earlier in zip(near_pairs.later, near_pairs.earlier, strict=True):
        (x1, y1), (x2, y2) = POINTS[later + 1], POINTS[earlier + 1]
        parts.append(f'<line class="pair" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    for number, (x, y) in POINTS.items():
        kind, text = ("goes", "off") if goes[number - 1] else ("stays", "on")
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="14"/>')
        parts.append(f'<text class="{text}" x="{x}" y="{y}">{number}</text>')
    removed = ", ".join(str(rank + 1) for rank in np.flatnonzero(goes))
    parts.append(f'<text class="small" x="{width / 2}" y="{height - 24}">goes: {removed}</text>')
    return [*parts, "</g>"]


def main() -> None:
    width, height = PANEL
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(RULES)} {height}">',
        "<title>What each rule removes of six points</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width * len(RULES)}" height="{height}"/>',
    ]
    for place, rule in enumerate(RULES):
        lines += panel(rule, place * width)
    OUTPUT.write_text("\n".join([*lines, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
