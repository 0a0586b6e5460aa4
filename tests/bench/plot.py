#!/usr/bin/env python3
"""Draws what a run of `bench` found: plot.py REPORT.json FIGURE.svg (or .png). The same report makes the same bytes."""

import json
import math
import sys
from itertools import zip_longest

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (a backend without a screen comes first)

HOLDS, MISSED, OTHERS, LINE = "#3b75af", "#c8502d", "#b9bec4", "#222222"
OURS = ("codexd", "conductor", "status-api")
WIDTH = 11.0  # inches
ROW = 0.24  # one bar
TITLE = 0.75  # what stands above and below the bars of a panel
TIMELINE = 1.6
MOST = 2.0  # bars end here, in bounds; the number says how far it really is
RATES, TIMELINES = 2, 3  # panels side by side

plt.rcParams.update({
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "svg.hashsalt": "baa-conductor",
})


def number(value):
    """As the tables have it, with a space between thousands."""
    digits = 0 if value == int(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ")


def share(claim):
    """How much of its bound a claim uses up: more than 1 is missed."""
    over, under = (claim["bound"], claim["value"]) if claim["at_least"] else (claim["value"], claim["bound"])
    return over / under if under else 0.0 if over == 0 else math.inf


def bars(axes, names, lengths, texts, colors):
    rows = range(len(names))
    axes.barh(rows, lengths, color=colors, height=0.7)
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    edge = axes.get_xlim()[1]
    for row, length, text in zip(rows, lengths, texts):
        axes.text(length + edge * 0.01, row, text, va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


def claims(axes, found):
    axes.set_title("Claims: how much of its bound each uses up (beyond 1: missed)")
    axes.set_xlim(0, MOST * 1.2)
    texts = [
        f"{number(one['value'])} {one['unit']}".strip()
        + f" ({'≥' if one['at_least'] else '≤'} {number(one['bound'])})"
        + (" ▸" if share(one) > MOST else "")
        for one in found
    ]
    colors = [HOLDS if one["holds"] else MISSED for one in found]
    bars(axes, [one["what"] for one in found], [min(share(one), MOST) for one in found], texts, colors)
    axes.axvline(1, color=LINE, linewidth=1)


def rates(axes, how, found):
    axes.set_title(f"Requests a second ({how})")
    values = [one["value"] for _, one in found]
    axes.set_xlim(0, max(values) * 1.3)
    colors = [HOLDS if who.startswith(OURS) else OTHERS for who, _ in found]
    bars(axes, [who for who, _ in found], values, [number(value) for value in values], colors)
    axes.xaxis.set_visible(False)  # the numbers stand at the bars
    axes.spines["bottom"].set_visible(False)


def timeline(axes, series):
    times, values = zip(*series["points"])
    unit = f", {series['unit']}" if series["unit"] else ""
    axes.set_title(f"{series['bench']}: {series['what']}{unit}")
    axes.plot([time / 60 for time in times], values, color=HOLDS, linewidth=1)
    axes.set_ylim(0, max(max(values) * 1.1, 1e-9))
    axes.set_xlabel("minutes")


def batched(found, size):
    return [found[at : at + size] for at in range(0, len(found), size)]


def by_how(figures):
    """Rates of the bench `http`, by the way in which was asked: its cases are `HOW: WHO`."""
    panels = {}
    for one in figures:
        if one["bench"] == "http" and one["what"] == "rate":
            how, _, who = one["case"].partition(": ")
            panels.setdefault(how, []).append((who, one))
    return list(panels.items())


def main(source, target):
    with open(source, encoding="utf-8") as file:
        report = json.load(file)
    rows = []  # of panels: the height, how many have room, and what draws each
    if report["claims"]:
        rows.append((len(report["claims"]) * ROW, 1, [lambda axes: claims(axes, report["claims"])]))
    for some in batched(by_how(report["figures"]), RATES):
        drawn = [lambda axes, how=how, found=found: rates(axes, how, found) for how, found in some]
        rows.append((max(len(found) for _, found in some) * ROW, RATES, drawn))
    for some in batched([one for one in report["series"] if one["points"]], TIMELINES):
        rows.append((TIMELINE, TIMELINES, [lambda axes, one=one: timeline(axes, one) for one in some]))
    heights = [height + TITLE for height, _, _ in rows]
    figure = plt.figure(figsize=(WIDTH, sum(heights) or 1), layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False).flat if rows else []
    for part, (_, room, drawn) in zip(parts, rows):
        panels = part.subplots(1, room, squeeze=False).flat
        for axes, draw in zip_longest(panels, drawn):
            draw(axes) if draw else axes.set_visible(False)
    metadata = {"Date": None, "Creator": None} if target.endswith(".svg") else None
    figure.savefig(target, metadata=metadata, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
