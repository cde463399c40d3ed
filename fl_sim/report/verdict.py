"""The verdict of a run: what the server read, in a headline, with everything that qualifies it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from fl_sim.records import EXACT, AttackRow, Results
from fl_sim.report.formats import plural

Tone = Literal["leak", "partial", "safe", "open"]

CLOSE = 20.0
"""A reconstruction that is not exact is called close from this PSNR (dB) on."""

FAILURES = {
    "timeout": "ran out of time. What was found until then counts.",
    "interrupted": "was stopped by the user. Of its images only those read until then count.",
    "attack_failed": "failed with an error, which says nothing about the clients' safety.",
    "not_applicable": "could not read this model.",
    "invalid_update": "got an update that is no gradient of this model.",
    "client_failed": "got no update, because the client failed.",
}


@dataclass(frozen=True)
class Note:
    """One qualification of the verdict: "alarm" (the attack is wrong), "warning" or "plain"."""

    kind: Literal["alarm", "warning", "plain"]
    text: str


@dataclass(frozen=True)
class Verdict:
    """What the server read.

    Attributes
    ----------
    tone : str
        "leak" (every image read), "partial" (some, or some came close), "safe" (none),
        "open" (nothing was measured).
    read, total : int
        Private images read exactly, and attacked.
    headline : str
        One sentence.
    notes : list of Note
        What qualifies it, the most serious first.
    """

    tone: Tone
    read: int
    total: int
    headline: str
    notes: list[Note] = field(default_factory=list)


def judge(results: Results) -> Verdict:
    """Return the verdict over all attacks of a run."""
    total = sum(row.images for row in results.attacks)
    read = sum(row.recovered for row in results.attacks)
    close = sum(_close(row) for row in results.attacks)
    notes = [*_false_certificates([results]), *_ending(results), *_losses(results)]
    notes += _failures(results)
    data = [Note("plain", text) for text in results.data_notes]
    if not total:
        return Verdict("open", 0, 0, _without_images(results), [*notes, *data])
    if read == total:
        tone: Tone = "leak"
    else:
        seen = sum(row.features_certified for row in results.attacks)
        tone = "partial" if read or close or seen else "safe"
        if tone == "safe" and all(row.status != "ok" for row in results.attacks):
            tone = "open"
        if seen:
            told = "is certified; the images themselves are estimates."
            notes.append(Note("warning", f"What a layer saw of {plural(seen, 'image')} {told}"))
    if close:
        images = plural(close, "more image" if read else "image")
        told = f"not exact, but with a PSNR of {CLOSE:.0f} dB or more."
        notes.append(Note("warning", f"{images} came back close: {told}"))
    return Verdict(tone, read, total, _headline(results, read, total), [*notes, *data])


def _headline(results: Results, read: int, total: int) -> str:
    if not read:
        if total == 1:
            return "The server did not read the one private image exactly."
        return f"The server read none of {total:,} private images exactly."
    told = f"The server read {read:,} of {plural(total, 'private image')} exactly"
    certified = sum(row.certified for row in results.attacks)
    false = sum(row.false_certificates for row in results.attacks)
    if false:
        return f"{told}; {false:,} of its {plural(certified, 'certificate')} {_are(false)} false."
    words = {read: "all certified" if read > 1 else "certified", 0: "none certified"}
    return f"{told}, {words.get(certified, f'{certified:,} of them certified')}."


def _without_images(results: Results) -> str:
    if any(row.status == "interrupted" for row in results.attacks):
        return "The run stopped before any attack had ended."
    if results.attacks:
        return "The server had no update to read."
    return {
        "complete": "No update was attacked.",
        "failed": "The run failed before any update was attacked.",
    }.get(results.status, "The run stopped before any update was attacked.")


def _close(row: AttackRow) -> int:
    """Count the images that are not exact but close."""
    pairs = zip_longest(row.psnr, row.relative_error)
    return sum(
        psnr is not None and psnr >= CLOSE and not (error is not None and error <= EXACT)
        for psnr, error in pairs
    )


def _false_certificates(runs: list[Results]) -> list[Note]:
    false = sum(row.false_certificates for results in runs for row in results.attacks)
    if not false:
        return []
    told = f"{plural(false, 'certificate')} {_are(false)} false"
    several = "an image" if false == 1 else "images"
    return [Note("alarm", f"{told}: the attack vouched for {several} that no client holds.")]


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _ending(results: Results) -> list[Note]:
    """Say how the run ended, where it did not end well."""
    if results.status == "complete":
        return []
    attacked = [row.round for row in results.attacks]
    rounds = max([*attacked, *(row.round for row in results.training)], default=0)
    planned = results.scenario.get("rounds", "?")
    told = {
        "running": "The run is still going on or was killed",
        "interrupted": "The run was interrupted",
        "failed": "The run failed",
    }.get(results.status, f"The run ended as {results.status!r}")
    where = f"{told} {f'after round {rounds} of {planned}' if rounds else 'in its first round'}"
    return [Note("warning", f"{where}: {results.message}" if results.message else f"{where}.")]


def _failures(results: Results) -> list[Note]:
    """Say how many attacks did not end well and why; pass on an attack's only remark."""
    kinds = Counter(row.status for row in results.attacks if row.status != "ok")
    attacks = plural(len(results.attacks), "attack")
    notes = []
    remarks = {row.message for row in results.attacks if row.status == "ok" and row.message}
    if len(remarks) == 1:
        notes.append(Note("plain", f"The attack remarks: {remarks.pop()}"))
    for kind, number in kinds.most_common():
        reasons = {row.message for row in results.attacks if row.status == kind}
        reason = f" {reasons.pop()}" if len(reasons) == 1 else ""
        told = FAILURES.get(kind, f"ended as {kind!r}.")
        notes.append(Note("warning", f"{number:,} of {attacks} {told}{reason}".rstrip()))
    return notes


def _losses(results: Results) -> list[Note]:
    """Say how many updates never came or were of no use, unless the attacks' rows tell."""
    lost = [why for row in results.training for why in row.failures.values()]
    told = sum(row.status in {"client_failed", "invalid_update"} for row in results.attacks)
    if len(lost) <= told:
        return []
    asked = plural(sum(row.asked for row in results.training), "update")
    text = f"{len(lost):,} of {asked} did not arrive or could not be used{_why(lost)}"
    return [Note("warning", text)]


def _why(messages: list[str]) -> str:
    """Return the reason behind a colon, the most frequent one of several, or a full stop."""
    told = Counter(message for message in messages if message).most_common(1)
    if not told:
        return "."
    return f"{': ' if len(set(messages)) == 1 else ', most often: '}{told[0][0]}"


def shortfall(results: Results) -> str:
    """Return in a sentence why a run that ended measured nothing, or "" if it did."""
    asked = sum(row.asked for row in results.training)
    if asked and not any(row.answered for row in results.training):
        why = _why([why for row in results.training for why in row.failures.values()])
        return f"No client ever sent an update that could be used{why}"
    ran = [r for r in results.attacks if r.status not in {"client_failed", "invalid_update"}]
    if ran and all(row.status == "attack_failed" for row in ran):
        return f"Every attack failed with an error{_why([row.message for row in ran])}"
    return ""


def judge_sweep(known: list[Results], runs: int) -> Verdict:
    """Return the verdict over many runs.

    Parameters
    ----------
    known : list of Results
        Of the runs that have any.
    runs : int
        All runs, with those that have none.
    """
    verdicts = [judge(results) for results in known]
    read, total = (sum(getattr(v, name) for v in verdicts) for name in ("read", "total"))
    false = sum(row.false_certificates for results in known for row in results.attacks)
    leaking = sum(v.read > 0 for v in verdicts)
    notes = _false_certificates(known)
    if lost := runs - sum(results.status == "complete" for results in known):
        notes.append(Note("warning", f"{lost:,} of {plural(runs, 'run')} did not complete."))
    texts = dict.fromkeys(text for results in known for text in results.data_notes)
    notes += [Note("plain", text) for text in texts]
    all_runs = plural(runs, "run")
    if not total:
        return Verdict("open", 0, 0, f"{all_runs}, in which no image was attacked.", notes)
    if read:
        told = f"In {leaking:,} of {all_runs} the server read private images exactly"
        told = f"{told}, {read:,} of {total:,} in all"
    else:
        told = f"In {all_runs} the server read none of {total:,} private images exactly"
    close = any(v.tone == "partial" for v in verdicts)
    tone: Tone = "leak" if read == total else "partial" if read or close else "safe"
    ending = f"with {plural(false, 'false certificate')}" if false else "with no false certificate"
    return Verdict(tone, read, total, f"{told}, {ending}.", notes)
