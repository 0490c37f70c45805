"""What a search adds to a made-up study: seeds, stopped trials, re-evaluations, rungs, effects."""

from dataclasses import replace

from paretune.effects import Effect, Effects, Pair
from paretune.findings import Findings, RungState, Trial


def with_seeds(findings: Findings, seeds: int = 8) -> Findings:
    """`findings` whose first searched trials are seeds, made from sensitivities that took 30 seconds to measure."""
    first = [trial.number for trial in findings.trials if trial.kind == "search"][:seeds]
    trials = (replace(trial, kind="seed") if trial.number in first else trial for trial in findings.trials)
    facts = {"sensitivities": {"seconds": 30.0, "from": "computed"}}
    return replace(findings, trials=tuple(trials), provenance=findings.provenance | {"measured": facts})


def with_stopped(findings: Findings, every: int = 3) -> Findings:
    """`findings` in which a rung after recalibration stopped every third searched trial off the front."""
    used = {trial.same_as for trial in findings.trials} | {trial.number for trial in findings.front}
    spare = [
        trial.number for trial in findings.trials
        if trial.kind == "search" and trial.status == "done" and trial.same_as is None and trial.number not in used
    ][::every]  # fmt: skip

    def stopped(trial: Trial) -> Trial:
        if trial.number not in spare:
            return trial
        values = {name: value for name, value in trial.values.items() if name != "top1_error"}
        seconds = {stage: value for stage, value in trial.seconds.items() if stage != "recover"}
        return replace(trial, status="stopped", reason="rung 0: not among the better half", values=values,
                       rungs=(replace(trial.rungs[0], judged=True),), seconds=seconds)  # fmt: skip

    return replace(findings, trials=tuple(map(stopped, findings.trials)))


def with_repeats(findings: Findings, seeds: int = 2, harm: float = 0.003) -> Findings:
    """`findings` whose compressed front members were evaluated under further seeds, each a little worse than before."""
    rows = list(findings.trials)
    for seed in range(1, seeds + 1):
        for trial in findings.front:
            error = round(trial.values["top1_error"] + harm * seed, 4)
            rows.append(
                replace(trial, number=len(rows), kind="repeat", of=trial.number, params={},
                        label=f"trial {trial.number}, seed {seed}", values=trial.values | {"top1_error": error})
            )  # fmt: skip
    return replace(findings, trials=tuple(rows))


def with_rungs(findings: Findings) -> Findings:
    """`findings` with a rung that judges, one that was switched off and one of which too little is known."""
    state = RungState(epochs=0, reached=50, judged=32, stopped=12, compared=18, correlation=0.81, bound=0.5, on=True)
    off = replace(state, epochs=1, reached=38, judged=9, stopped=0, correlation=0.314, on=False)
    few = replace(state, epochs=3, reached=5, judged=0, stopped=0, compared=2, correlation=None, on=False)
    return replace(findings, rungs=(state, off, few))


def with_effects(findings: Findings, pairs: int = 12) -> Findings:
    """`findings` with made-up effects: seven ratios of every group, bits of every layer, of activations, and pairs."""
    effects = []
    hurt = {layer.name: 0.08 * 0.6**place for place, layer in enumerate(findings.inventory.weighted)}
    for group in findings.inventory.groups:
        for step in range(1, 8):
            loss = 0.2 + 40 * hurt[group.name] * (step / 8) ** 3
            effects.append(Effect(decision=f"ratio/{group.name}", setting=round(step / 8, 3), loss=loss,
                                  error=min(0.9, 0.02 + loss - 0.2), measured=step % 2 == 0))  # fmt: skip
    for layer in findings.inventory.weighted:
        for bits in (8, 6, 4, 3, 2):
            loss = 0.2 + 60 * hurt[layer.name] * (2 / bits) ** 4
            effects.append(Effect(decision=f"weight_bits/{layer.name}", setting=bits, loss=loss,
                                  error=min(0.9, 0.02 + loss - 0.2)))  # fmt: skip
    effects += [Effect(decision="activation_bits", setting=bits, loss=0.2 + 2.0**-bits, error=0.02) for bits in (8, 4)]
    names = [group.name for group in findings.inventory.groups]
    made = tuple(
        Pair(decisions=(f"ratio/{names[i % 7]}", f"weight_bits/{names[(i + 1) % 7]}"), settings=(0.5, 4),
             loss=0.01 * i * (-1) ** i)
        for i in range(pairs)
    )  # fmt: skip
    found = Effects(loss=0.2, error=0.019, effects=tuple(effects), pairs=made, images=1024,
                    note="every other ratio was measured: 5 minutes did not suffice for all")  # fmt: skip
    return replace(findings, effects=found)
