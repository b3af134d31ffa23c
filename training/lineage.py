"""Where a network comes from → what its card says of that: the command that trained it, and the networks before it."""

from __future__ import annotations

from service.metadata import Provenance, TeacherRecord, TrainingConfig


def command(p: Provenance) -> str:
    """What trained it; runs that did not record that were those of a recipe as it is."""
    return p.training.get("command") or f"convoy-train train {p.recipe} --seed {p.config['seed']}"


def teachers(before: tuple[TeacherRecord, ...], config: TrainingConfig) -> list[str]:
    """What the card says of the networks before this one; `config` is this one's."""
    if not before:
        return []
    asked = before if config.get("start_teaches", True) else before[1:]
    if asked == before:
        told = "what these networks say"
    elif len(asked) == 1:
        told = "what the last of these networks says"
    else:
        told = f"what the last {len(asked)} of these networks say"
    if config.get("inherit_answers"):
        told = "what the teachers of the last of these networks said"
    learned = f"The student learned from {told} of the same pixels, seen both ways round, not from labels."
    if not asked:
        learned = "The network learned from labels."
    start = " It went on from the weights of the first." if config.get("start_from_teacher") else ""
    if start and isinstance(restarts := config.get("restarts"), list) and restarts:
        counted = f", counted {weight} times," if (weight := config.get("start_weight", 1)) != 1 else ""
        start += (
            f" The last weights are the mean of those{counted} and of the ends of {len(restarts) + 1} lr schedules."
        )
    fields = [(f"`{t.recipe}`", t.config | {f"trained with: {k}": v for k, v in t.training.items()}) for t in before]
    names = list(dict.fromkeys(name for _, values in fields for name in values))
    return [
        "## Teachers" if asked else "## Start",
        "",
        learned + start,
        "",
        "| | " + " | ".join(recipe for recipe, _ in fields) + " |",
        "|---" * (len(fields) + 1) + "|",
        *(f"| {name} | " + " | ".join(plain(values.get(name, "–")) for _, values in fields) + " |" for name in names),
        "",
    ]


def plain(value: object) -> str:
    """A setting, as it is written in a table."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
