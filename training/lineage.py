"""Where a network comes from → what its card says of that: the command that trained it, and the networks before it."""

from __future__ import annotations

from service.metadata import Provenance, TeacherRecord, TrainingConfig


def command(p: Provenance) -> str:
    """What trained it; runs that did not record that were those of a recipe as it is."""
    return p.training.get("command") or f"convoy-train train {p.recipe} --seed {p.config['seed']}"


def teachers(before: tuple[TeacherRecord, ...], config: TrainingConfig, epochs: int) -> list[str]:
    """What the card says of the networks before this one; `config` is this one's, and so are the `epochs` it took."""
    if not before:
        return []
    asked = before if config.get("start_teaches", True) else before[1:]
    learned = "The network learned from labels."
    if asked:
        told = _speakers(asked, before, config)
        learned = f"The student learned from {told} of the same pixels, seen both ways round, not from labels."
    fields = [(f"`{t.recipe}`", t.config | {f"trained with: {k}": v for k, v in t.training.items()}) for t in before]
    names = list(dict.fromkeys(name for _, values in fields for name in values))
    return [
        "## Teachers" if asked else "## Start",
        "",
        learned + _start(config, epochs),
        "",
        "| | " + " | ".join(recipe for recipe, _ in fields) + " |",
        "|---" * (len(fields) + 1) + "|",
        *(f"| {name} | " + " | ".join(plain(values.get(name, "–")) for _, values in fields) + " |" for name in names),
        "",
    ]


def _speakers(asked: tuple[TeacherRecord, ...], before: tuple[TeacherRecord, ...], config: TrainingConfig) -> str:
    if config.get("inherit_answers"):
        return "what the teachers of the last of these networks said"
    if asked == before:
        return "what these networks say"
    if len(asked) == 1:
        return "what the last of these networks says"
    return f"what the last {len(asked)} of these networks say"


def _start(config: TrainingConfig, epochs: int) -> str:
    if not config.get("start_from_teacher"):
        return ""
    start, restarts = " It went on from the weights of the first.", config.get("restarts")
    if not isinstance(restarts, list) or not restarts:
        return start
    counted = f", counted {weight} times," if (weight := config.get("start_weight", 1)) != 1 else ""
    schedules = 1 + sum(int(epoch) < epochs for epoch in restarts)  # a shorter run has fewer
    ends = f"the ends of {schedules} lr schedules" if schedules > 1 else "those at the end"
    return f"{start} The last weights are the mean of those{counted} and of {ends}."


def plain(value: object) -> str:
    """A setting, as it is written in a table."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
