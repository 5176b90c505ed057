"""Warnings from the values of `diagnose`: the symptom, its likely cause and what to do.

The thresholds separate tiny runs of 120 steps that were made to collapse from those that were not. For class tokens,
spread less entropy never fell below 0.007 with Sinkhorn-Knopp (three seeds) or softmax centering (one seed), and stayed
below 0.002 from step 40 on without centering (three seeds), or with centering and equal temperatures (one seed).
"""

import math

EQUAL_STD = 0.05  # two features then have a cosine of 0.9975 on average
ONE_DIRECTION = 1.5  # effective rank
UNIFORM = 0.98  # entropies are shares of log K
ONE_PROTOTYPE = 0.1
ALIKE = 0.005  # spread less entropy: what a target tells of its token
UNMOVED = 0.99  # cosine of features at two places
FREE = 0.02  # nats


def symptoms(values: dict[str, float]) -> dict[str, str]:
    """Name and sentence of each symptom that a method's diagnostics show now; numbers may be absent, or NaN."""
    found = {}
    for name, value in values.items():
        what, _, statistic = name.rpartition("_")
        if statistic == "std" and value < EQUAL_STD:
            found[f"equal: {what}"] = _equal(name, value, "0 means all equal")
        if statistic == "rank" and value < ONE_DIRECTION:
            found[f"equal: {what}"] = _equal(name, value, "1 means a single direction")
    heads = [name.removeprefix("target_spread_") for name in values if name.startswith("target_spread_")]
    for head in heads:
        spread, entropy = values[f"target_spread_{head}"], values[f"target_entropy_{head}"]
        if spread - entropy < ALIKE:
            numbers = f"entropy {entropy:.3f} of log K, of their mean {spread:.3f}"
            found[f"{head} targets alike"] = f"{_alike(spread, entropy)} ({head} head: {numbers})"
    return found | _unread_field(values)


def _equal(name: str, value: float, meaning: str) -> str:
    return (
        f"the features have collapsed to nearly one vector ({name} {value:.3g}; {meaning}). Likely causes: a learning "
        "rate that is too high, a teacher that is not centred, a teacher momentum that is too low, no KoLeo"
    )


def _unread_field(values: dict[str, float]) -> dict[str, str]:
    """Features do not change with a crop's place, and hidden positions cost nothing; values may be missing."""
    cosine, cost = values.get("moved_patch_cosine", math.nan), values.get("hidden_position_cost", math.nan)
    signs = []
    if not math.isnan(cosine):
        signs.append((cosine > UNMOVED, f"a crop placed elsewhere has the same features (cosine {cosine:.3f})"))
    if not math.isnan(cost):
        signs.append((cost < FREE, f"hiding a position costs {cost:.3f} nats of position loss"))
    if not signs or not all(shows for shows, _ in signs):
        return {}
    sentence = (
        f"the backbone does not read its position field: {' and '.join(said for _, said in signs)}, so that positions "
        "are not learned. Likely cause: a field that is small beside its content"
    )
    if "field_rms" in values and "content_rms" in values:
        sentence += f" (rms {values['field_rms']:.3f} and {values['content_rms']:.3f})"
    return {"field unread": f"{sentence}; set model.backbone.field_init=centred_sincos, or train longer"}


def _alike(spread: float, entropy: float) -> str:
    """The sentence for each of three ways to give every token the same target."""
    if spread < ONE_PROTOTYPE:
        return (
            "all tokens are assigned to one prototype. Likely cause: the teacher is sharpened and not centred; set "
            "model.centering to softmax or sinkhorn, or raise teacher_temp"
        )
    if entropy > UNIFORM:
        return (
            "all targets are uniform, so nothing is learned from them. Likely causes: the teacher is centred and not "
            "sharp (lower model.teacher_temp below student_temp), or a learning rate that is too high"
        )
    return (
        "every token gets the same target, so student and teacher agree on a constant. Likely cause: the teacher is "
        "neither centred nor sharper than the student; set model.centering, and model.teacher_temp below student_temp"
    )
