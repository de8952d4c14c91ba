"""Writes a page that compares the paper's claims with ``nano``'s results, which ``runs/reproduction.sh`` makes.

    python benchmarks/reproduction.py --results benchmarks/results/reproduction --output docs/reproduction.md

Nothing is measured here: every figure is read from a JSON file, whose command, commit and machine are on the page. A
verdict follows from intervals by a rule given with each claim; if a file is missing, the page says "not run".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motionstream.media.files import atomic_path

AGREES, DISAGREES, OPEN = "agrees", "disagrees", "no difference seen"
UNDECIDED, UNTESTABLE = "not decided", "not testable at this size"
Result = dict[str, Any]
Values = dict[str, float]


@dataclass(frozen=True)
class Finding:
    """A result. ``shown``: the measurement in words and numbers. ``verdict``: whether it agrees with the claim."""

    shown: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A claim of the paper. ``said``: its statement, with its place in the paper. ``file``: the result for ``judge``;
    None if the claim cannot be tested."""

    title: str
    said: str
    file: str | None
    judge: Callable[[Result], Finding]


def interval(values: Values, digits: int = 2) -> str:
    value, low, high = (f"{values[part]:+.{digits}f}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def sentence(parts: list[str]) -> str:
    words = "; ".join(parts) + "."
    return words[:1].upper() + words[1:]


def below(values: Values, matters: float = 0.0) -> str:
    """The verdict on the claim that a difference is below zero; OPEN if the whole interval is within ``matters`` of
    zero."""
    if max(abs(values["low"]), abs(values["high"])) < matters:
        return OPEN
    return AGREES if values["high"] < 0 else DISAGREES if values["low"] > 0 else OPEN


def negative(values: Values) -> Values:
    return {"value": -values["value"], "low": -values["high"], "high": -values["low"]}


def above(values: Values) -> str:
    return below(negative(values))


def pair(result: Result, of: str, minus: str) -> Result:
    """The comparison whose two names end with ``of`` and ``minus``."""
    for found in result["comparisons"]:
        if found["of"].endswith(of) and found["minus"].endswith(minus):
            return dict(found)
    raise LookupError(f"no comparison of {of} with {minus}")


def drift_pair(result: Result, of: str, minus: str) -> tuple[Values, Values]:
    """Differences of PSNR and of end-point error over the last seconds."""
    found = pair(result["last_seconds"], of, minus)
    if found["epe_difference"] is None:
        raise LookupError("no scene in which a point has moved")
    return found["psnr_difference"], found["epe_difference"]


def line(result: Result, causal: str) -> Result:
    return next(dict(found) for found in result["lines"] if found["causal"] == causal)


def seconds(result: Result) -> str:
    settings = result["settings"]
    return f"{settings['clips']} scenes of {settings['seconds']:g} s"


def sink(result: Result) -> Finding:
    psnr, epe = drift_pair(result, " c3s0w1", " c3s1w1")
    lost = {pattern: line(result, pattern)["decline"]["psnr"] for pattern in ("c3s1w1", "c3s0w1")}
    shown = (
        f"{seconds(result)}, last 4 s, without the sink minus with it: {interval(psnr)} dB of what is still, EPE "
        f"{interval(epe)} px. From the first 4 s to the last: {interval(lost['c3s1w1'])} dB with it, "
        f"{interval(lost['c3s0w1'])} dB without."
    )
    return Finding(shown, below(psnr, VISIBLE))


def sinks(result: Result) -> Finding:
    psnr, epe = drift_pair(result, " c3s2w1", " c3s1w1")
    small = max(abs(psnr["low"]), abs(psnr["high"])) < MARGINAL
    verdict = AGREES if small else DISAGREES if abs(psnr["value"]) >= MARGINAL else OPEN
    return Finding(f"Two sinks minus one: {interval(psnr)} dB, EPE {interval(epe)} px.", verdict)


def window(result: Result) -> Finding:
    found = {w: drift_pair(result, f" c3s1w{w}", " c3s1w1") for w in (2, 3)}
    parts = [f"window {w} minus window 1: {interval(p)} dB, EPE {interval(e)} px" for w, (p, e) in found.items()]
    return Finding(sentence(parts), below(found[3][0], VISIBLE))


def chunk_one(result: Result) -> Finding:
    psnr, epe = drift_pair(result, " c1s1w1", " c3s1w1")
    return Finding(
        f"{seconds(result)} held drags, last 4 s, chunks of 1 minus chunks of 3: {interval(psnr)} dB, EPE "
        f"{interval(epe)} px. The student was trained on chunks of 3 alone.",
        below(psnr, VISIBLE),
    )


def chunk_speed(result: Result) -> Finding:
    found = {size: line(result, f"c{size}s1w1") for size in (1, 3, 7)}
    parts = [f"chunk {size}: {own['fps']:.1f} fps, {own['latency']:.2f} s" for size, own in found.items()]
    late = found[1]["latency"] < found[3]["latency"] < found[7]["latency"]
    verdict = AGREES if late and found[1]["fps"] < found[3]["fps"] else DISAGREES
    return Finding(sentence(parts)[:-1] + " (a shared machine).", verdict)


def compared_rows(found: Result) -> str:
    epe = "" if found["epe_mean"] is None else f", EPE {interval(found['epe_mean'])} px"
    return (
        f"{found['of']} minus {found['minus']}: {interval(found['psnr'])} dB{epe}, blocks {interval(found['blocks'])}"
    )


def steps(result: Result) -> Finding:
    few, more = (pair(result, f" {name}", " 3 steps") for name in ("2 steps", "4 steps"))
    one = pair(result, " 1 step", " 3 steps")
    shown = "; ".join(compared_rows(found) for found in (one, few, more)) + "."
    verdict = below(few["psnr"], VISIBLE)
    return Finding(shown, verdict)


def guidance(result: Result) -> Finding:
    """AGREES if motion guidance follows tracks better than every other kind, DISAGREES if worse than any; without a
    comparison with each kind it is UNDECIDED."""
    kinds = ("plain", "text", "joint")
    ends = tuple(f" {kind}" for kind in (*kinds, "motion"))
    rows = [found for found in result["comparisons"] if found["of"].endswith(ends) and found["minus"].endswith(ends)]
    if not rows:
        raise LookupError("no ways of guidance compared")
    paired = {kind: errors for kind in kinds if (errors := motion_minus(rows, kind)) is not None}
    verdicts = {below(errors) for errors in paired.values()}
    shown, missing = "; ".join(map(compared_rows, rows)) + ".", [kind for kind in kinds if kind not in paired]
    if missing:
        shown += f" Motion was not paired with {' and '.join(missing)}."
    if DISAGREES in verdicts:
        return Finding(shown, DISAGREES)
    if missing:
        return Finding(shown, UNDECIDED)
    return Finding(shown, AGREES if verdicts == {AGREES} else OPEN)


def motion_minus(rows: list[Result], kind: str) -> Values | None:
    """The paired difference of end-point errors, motion guidance minus ``kind``; None if they were not compared."""
    for found in rows:
        names, errors = (found["of"].split()[-1], found["minus"].split()[-1]), found["epe_mean"]
        if set(names) == {"motion", kind} and errors is not None:
            return dict(errors) if names[0] == "motion" else negative(errors)
    return None


def stages(result: Result) -> Finding:
    first = next(iter(result["ways"]))
    rows = [found for found in result["comparisons"] if found["minus"] == first]
    own = [f"{name}: {row['psnr']:.2f} dB, EPE {row['epe_mean']:.2f} px" for name, row in result["ways"].items()]
    shown = "; ".join(own) + ". " + "; ".join(compared_rows(found) for found in rows) + "."
    return Finding(shown, below(rows[-1]["psnr"], VISIBLE))


def light(result: Result) -> tuple[str, list[Result]]:
    """Every way's PSNR in the pixels that a told effect changes, in words, and all ways' differences from the first."""
    ways, effect = result["ways"], result["settings"]["effect"]
    rows = [found for found in result["comparisons"] if found["minus"] == next(iter(ways))]
    own = ", ".join(f"{name} {way['psnr_effect']:.2f}" for name, way in ways.items())
    apart = "; ".join(f"{row['of']} minus {row['minus']} {interval(row['psnr_effect'])}" for row in rows)
    shown = len(next(iter(ways.values()))["psnr_by_clip"])
    warped = result["references"]["warp only"]["psnr_effect"]
    told = f"{shown} scenes of {effect}, told alone, dB in what it changes: {own} (bare warp {warped:.2f}). {apart}."
    return told, rows


def stages_light(result: Result) -> Finding:
    shown, rows = light(result)
    return Finding(shown, below(rows[-1]["psnr_effect"], VISIBLE))


def guidance_light(result: Result) -> Finding:
    shown, _ = light(result)
    return Finding(shown, above(pair(result, " text", " plain")["psnr_effect"]))


def release(result: Result) -> Finding:
    masked, after = (pair(result, f" {arm}", " held") for arm in ("masked", "after"))
    shown = "; ".join(
        f"{name} minus held: jump {interval(found['jump'])} levels, EPE {interval(found['epe'])} px"
        for name, found in (("masked in mid-chunk", masked), ("masked from the next chunk on", after))
    )
    shown += ". This can only refute the claim: no model was trained without masking, to be compared with."
    return Finding(shown, OPEN if masked["jump"]["low"] <= 0 else DISAGREES)


def captions(result: Result) -> Finding:
    """AGREES if for any effect the prompt brings the picture visibly nearer to it than the same model without."""
    brought, parts = False, []
    for effect, found in result["effects"].items():
        told, warp = (found["intervals"][f"told briefly - {other}"] for other in ("untold", "warp only"))
        if told is not None:
            brought |= told["low"] > VISIBLE
            parts.append(f"{effect}: {interval(told)} dB over the same model untold, {interval(warp)} over the warp")
    shown = f"{result['settings']['clips']} scenes of each, where the effect changes the picture. {sentence(parts)}"
    return Finding(shown, AGREES if brought else OPEN)


def nothing(why: str) -> Callable[[Result], Finding]:
    return lambda result: Finding(why, UNTESTABLE)


MARGINAL, VISIBLE = 0.3, 0.1
"""dB below which a gain counts as marginal, and a difference as invisible."""


def representation(result: Result) -> Finding:
    drawn, ids = result["variants"]["rgb"], result["variants"]["base"]
    size = "×".join(map(str, result["size"]))
    shown = (
        f"Not `nano`, which carries content, but a model without any ({ids['weights'] / 1e6:.1f} million weights, "
        f"{size}, {result['clips']} clips: too few to follow). Being given the tracks lowers the error of denoised "
        f"latents by {interval(ids['tracks_are_worth'], 4)} as ids and by {interval(drawn['tracks_are_worth'], 4)} "
        f"drawn, a difference of {interval(drawn['worth_minus_base'], 4)}. The error itself, drawn minus ids: "
        f"{interval(drawn['minus_base'], 4)} of {ids['error']:.4f}."
    )
    # what the tracks are worth, not the error: drawing may disturb what else is learnt
    return Finding(shown, below(drawn["worth_minus_base"]))


def encoding(result: Result) -> Finding:
    times, settings, operations = result["milliseconds"], result["settings"], result["operations"]
    height, width = settings["size"]
    shown = (
        f"{settings['model']} with random weights, {width}×{height}, {settings['frames']} frames on this processor: "
        f"{times['head']:.0f} ms by the head, {times['drawn']:.0f} ms drawn, {result['times_as_long']:.0f} times as "
        f"long. At its own size {operations['drawn'] / operations['head']:.0f} times the operations."
    )
    return Finding(shown, AGREES if result["times_as_long"] > 1 else DISAGREES)


CLAIMS = (
    Claim(
        "A sink",
        "Without sink tokens long-term generation degrades (table 4: LPIPS .501 against .464, EPE 26.6 against 25.3; "
        "figures 6, A3).",
        "sink-window.json",
        sink,
    ),
    Claim("More sinks", "Additional sinks give only marginal gains (figure 6).", "sink-window.json", sinks),
    Claim(
        "Longer windows",
        "Larger windows degrade performance, as attending to long-past history lets errors accumulate (figure 6).",
        "sink-window.json",
        window,
    ),
    Claim(
        "Chunks of one latent frame",
        "Significant loss of quality (table 4: LPIPS .597, EPE 76.2; .464 and 25.3 with chunks of 3).",
        "chunks.json",
        chunk_one,
    ),
    Claim(
        "Chunk size and latency",
        "Small chunks lower throughput, large ones raise latency (table 4, figure A2: 13.3 fps and .30 s with 1, 16.9 "
        "fps and .70 s with 3).",
        "chunks.json",
        chunk_speed,
    ),
    Claim(
        "Steps",
        "Two steps are noticeably worse than three, more than three marginally better (figure A2).",
        "steps.json",
        steps,
    ),
    Claim(
        "Guidance",
        "Motion guidance follows most accurately at the cost of the picture, joint guidance balances (section 4.3).",
        "guidance.json",
        guidance,
    ),
    Claim(
        "Teacher and student",
        "The distilled student is somewhat less accurate than the teacher (table 1: PSNR 16.7 against 17.8, EPE 4.2 "
        "against 2.7) and twenty times as fast.",
        "stages.json",
        stages,
    ),
    Claim(
        "Teacher and student, light",
        "The same, of what only a sentence tells; the paper has no figure of it.",
        "stages-light.json",
        stages_light,
    ),
    Claim(
        "Guidance by text",
        "Text guidance complements tracks: it makes what the sentence says (section 3.1).",
        "guidance-light.json",
        guidance_light,
    ),
    Claim(
        "Masking at the release of a drag",
        "Masking tracks in mid-clip while training avoids that things jump or vanish when let go (section 3.1).",
        "release.json",
        release,
    ),
    Claim(
        "Track representation",
        "Random ids with a learned head follow better than tracks drawn as colours and encoded by the autoencoder "
        "(table 3: EPE 6.54 against 8.57).",
        "ablations.json",
        representation,
    ),
    Claim(
        "Encoding tracks",
        "The track head is forty times as fast as drawing tracks and encoding them (table 3: 24.8 ms against 1053).",
        "track-encoding.json",
        encoding,
    ),
    Claim(
        "Tiny decoder",
        "It costs little quality and doubles the speed (table A2).",
        None,
        nothing("`nano`'s autoencoder is linear; a tiny decoder is no faster (docs/log.md)."),
    ),
    Claim(
        "Text",
        "Captions enable what tracks cannot say, such as a rainbow (figure 5).",
        "captions.json",
        captions,
    ),
)


def page(folder: Path) -> str:
    """The page as Markdown."""
    lines = [
        "# Reproduction",
        "",
        "The paper's ablations, asked of the embedded model. Rows that name `work/chain/…` are of a teacher, its",
        "causal and its Self-Forcing student, trained from what is shipped (`--base nano`, 70 minutes of a shared",
        "core) and not shipped themselves. Of motion the transformer shows nothing (docs/carry.md), so",
        "differences are mostly in light. It has 4.4 million parameters (the paper's 1.3 billion) and sees",
        "rendered scenes of 128×128: a disagreement may be the size's. Intervals are 95 %, paired, clips",
        "resampled. A verdict is a rule on one: *agrees* where all of it lies on the claim's side of zero,",
        f"*disagrees* where all of it lies on the other, *{OPEN}* where it contains zero, or lies within {VISIBLE}",
        f"dB of it; *{UNDECIDED}* where the pairs that decide were not compared. `runs/reproduction.sh` makes the",
        "results and this page.",
        "",
        "| | the paper | here | |",
        "|---|---|---|---|",
    ]
    used: dict[str, Result] = {}
    for claim in CLAIMS:
        finding = judge(claim, folder, used)
        lines.append(f"| **{claim.title}** | {claim.said} | {finding.shown} | **{finding.verdict}** |")
    lines += ["", "## Made by", ""]
    for name, result in used.items():
        made = result["environment"]
        lines.append(
            f"- `{name}`: `{made['command']}`, commit {made['commit'] or 'unknown'}, {made['processor']}, "
            f"{made['threads']} of {made['cores']} threads, torch {made['versions']['torch']}"
            + (f", {result['seconds']:.0f} s" if "seconds" in result else "")
        )
    return "\n".join(lines) + "\n"


def judge(claim: Claim, folder: Path, used: dict[str, Result]) -> Finding:
    """The finding for a claim; "not run" if the result is missing or lacks a row."""
    if claim.file is None:
        return claim.judge({})
    path = folder / claim.file
    if not path.is_file():
        return Finding("not run", "not run")
    result = used.setdefault(claim.file, json.loads(path.read_text()))
    try:
        return claim.judge(result)
    except LookupError as error:
        return Finding(f"not run ({error})", "not run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/reproduction"))
    parser.add_argument("--output", type=Path, default=Path("docs/reproduction.md"))
    options = parser.parse_args()
    with atomic_path(options.output, [".md"]) as path:
        path.write_text(page(options.results))


if __name__ == "__main__":
    main()
