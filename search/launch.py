"""Hydra's door: compose the config, check it, freeze it, and hand it in. No config object goes further."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paretune.conf.settings import Settings, parse_settings
from paretune.costs.hardware import Hardware
from paretune.errors import ParetuneError, near_miss, pick
from paretune.spaces.language import KEYS

GROUPS = ("experiment", "task", "model", "data", "space", "hardware")
VARIATIONS = frozenset({"sampler", "seed", "population"})  # of one search: nothing else tells two studies apart

INSPECT_HELP = """paretune inspect [key=value ...]: layers, their costs, and what is not counted; trains nothing.

  paretune inspect task=digits                                          a task with data
  paretune inspect task=torchvision task.model=resnet18                 any torchvision network: no data, no weights
  paretune inspect task=cifar task.model=resnet20                       the ResNets and VGGs made for CIFAR
  paretune inspect task=module task.target=my_nets.make 'task.input_shape=[3,32,32]'     your own module

What is done to it (all optional):
  plan.weight_bits=8 plan.activation_bits=8      bits of every layer; plan.input_bits=8 of the network's input
  plan.ratio=0.3                                 the share of channels that every group loses
  plan.sparsity=0.5 plan.pattern=pe_block        masked weights: unstructured, pe_block, partition (plan.parts=4), '2:4'
  'plan.layers=[{match: head*, weight_bits: 8}]' single layers; plan.groups likewise with ratio; the first match wins
  plan.file=model/                               the plan of an exported folder instead

Which channels may leave together:
  'inventory.exclude=[head*]'                    layers whose channels all stay
  'inventory.groups=[{name: one, out: [conv1, bn1], in: [conv2]}]'   by hand, where they cannot be found

What it runs on:
  hardware=systolic_16x16                        mcu, cpu, edge_npu, fpga_pe16, or a file: hardware=mine.yaml
  hardware.rows=8 hardware.energy=my_table.yaml  single settings; +hardware.key=... for one that the preset leaves out

  format=json                                    one JSON object: totals, layers, uncounted, definitions

Names of layers and groups are what the `match` of a space sees; a group is what can only leave together."""


def study_command(arguments: Sequence[str]) -> int:
    """Run or resume the study that the overrides describe and print its summary."""

    def run(settings: Settings) -> None:
        from paretune.report.verdict import summary_lines
        from paretune.samplers.table import SAMPLERS
        from paretune.search.check import warn_if_stuck_here
        from paretune.search.read import read_findings
        from paretune.search.store import AnotherStudy
        from paretune.search.study import carry_out
        from paretune.tasks.table import make_task

        pick(SAMPLERS, settings.sampler, "sampler")  # before a task that may take hours to train
        task = make_task(settings.task, device=settings.device)
        try:
            study = carry_out(settings, task, look=warn_if_stuck_here, say=_say)
        except AnotherStudy as error:
            if _named() or not VARIATIONS.issuperset(error.keys):
                raise
            # The same problem searched in another way: it gets a folder of its own beside the first.
            settings = variation(settings)
            print(f"{error.folder} holds another search; this one goes to {settings.folder}", file=sys.stderr)
            study = carry_out(settings, task, say=_say)
        print("\n".join(summary_lines(read_findings(study.folder))))

    return _with_hydra("paretune study", arguments, run)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def inspect_command(arguments: Sequence[str]) -> int:
    """Print the layers of a task or of a bare network and what they cost; `format=json` for a machine."""
    if {"-h", "--help"} & set(arguments):
        print(INSPECT_HELP)
        return 0
    plan = [word for word in arguments if re.match(r"\+{0,2}plan\.", word)]
    asked = _plain_words([word.lstrip("+") for word in plan])
    words = [word for word in arguments if not word.startswith("format=") and word not in plan]
    wanted = [word.removeprefix("format=") for word in arguments if word.startswith("format=")] or ["table"]
    if wanted[-1] not in ("table", "json"):
        raise ParetuneError(f"format is table or json, got '{wanted[-1]}'")

    def run(settings: Settings) -> None:
        from paretune.search.devices import hardware_of
        from paretune.search.show import show
        from paretune.search.subject import look_at

        hardware = hardware_of(settings.hardware)
        name, inventory = look_at(settings.task, device=settings.device, asked=settings.inventory)
        show(name, inventory, asked.get("plan", {}), hardware, as_json=wanted[-1] == "json")

    return _with_hydra("paretune inspect", words, run)


def variation(settings: Settings) -> Settings:
    """The same settings under a name that tells how they search."""
    name = f"{settings.study.name}-{settings.sampler}-seed{settings.study.seed}"
    return replace(settings, study=replace(settings.study, name=name))


def _named() -> bool:
    return any(word.startswith("study.name=") for word in HydraConfig.get().overrides.task)


def _with_hydra(program: str, arguments: Sequence[str], run: Callable[[Settings], None]) -> int:
    """Compose the config from `arguments` and call `run` with it, once or, with --multirun, once per job."""

    refused: list[Exception] = []
    composed = False
    arguments, own = _own_hardware(arguments)

    @hydra.main(config_path="pkg://paretune.conf", config_name="config", version_base="1.3")
    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        try:
            settings = _plain(config)
            run(parse_settings(settings if own is None else {**settings, "hardware": own}))
        except (ParetuneError, OSError) as error:
            refused.append(error)  # Hydra would print a line of its own above ours
        except OmegaConfBaseException as error:
            refused.append(ParetuneError(one_line(error, arguments)))

    # Hydra reads sys.argv, and prints and swallows exceptions unless it is told to let them through.
    # argparse takes overrides in one stretch only, so flags go first.
    sys.argv = [program, *sorted(arguments, key=lambda word: "=" in word and not word.startswith("-"))]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        job()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if composed:
            raise
        raise ParetuneError(one_line(error, arguments)) from error
    if refused:
        raise refused[0]
    return 0


def _own_hardware(arguments: Sequence[str]) -> tuple[Sequence[str], dict[str, Any] | None]:
    """The arguments without hardware=file.yaml, which Hydra would look for in its groups, and what the file says,
    changed by the words hardware.key=value.
    """
    named = [word for word in arguments if word.startswith("hardware=")]
    files = [word for word in named if word.endswith((".yaml", ".yml"))]
    if not files or named[-1] not in files:  # the last word wins
        return [word for word in arguments if word not in files], None
    from paretune.search.devices import packaged

    changes = [word for word in arguments if re.match(r"(\+{0,2}|~)hardware\.", word)]
    if gone := [word for word in changes if word.startswith("~")]:
        raise ParetuneError(f"{gone[0]}: take it out of {named[-1].removeprefix('hardware=')} instead")
    known = packaged("hardware", named[-1].removeprefix("hardware="))
    rest = [word for word in arguments if word not in named and word not in changes]
    return rest, {**known, **_plain_words([word.lstrip("+") for word in changes]).get("hardware", {})}


def _plain_words(words: Sequence[str]) -> dict[str, Any]:
    """Words such as plan.weight_bits=8 as nested dicts, their values read as YAML."""
    try:
        plain = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ParetuneError(f"{' '.join(words)} cannot be read: {one_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN and not _named():
        # Jobs of a sweep differ in their overrides; each needs a folder of its own.
        suffix = re.sub(r"[^\w.=-]+", "_", job.job.override_dirname)
        settings["study"] = {**settings["study"], "name": f"{settings['study']['name']}-{suffix}"}
    return settings


def one_line(error: Exception, arguments: Sequence[str] = ()) -> str:
    """Hydra's and OmegaConf's messages, over several lines, as one that names the key and what would work with the
    config groups that `arguments` choose.
    """
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found.group(1), arguments)
    if found := re.search(r"Could not find '([^']+)'", text):
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        group, _, name = found.group(1).rpartition("/")
        return f"no {group or 'config'} is called '{name}'.{near_miss(name, options)}"
    if (found := re.search(r"Error merging override ([^=]+)=(.*)", text)) and "Cannot merge" in str(error.__cause__):
        key = found.group(1)
        return f"{key}: a list and a table cannot replace each other; write '~{key}' '+{key}={found.group(2)}'"
    kept = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("Set the env", "See "))]
    return "config: " + " ".join(kept)


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    """The deepest part of `key` that exists decides which names to offer."""
    groups = [word for word in arguments if re.match(rf"({'|'.join(GROUPS)})=", word)]
    with hydra.initialize_config_module("paretune.conf", version_base="1.3"):
        try:
            known: Any = hydra.compose("config", overrides=groups)
        except HydraException:  # a group of the user's own, or several of a sweep
            known = hydra.compose("config")
    path: list[str] = []
    for part in key.split("."):
        if not isinstance(known, DictConfig) or part not in known:
            break
        path, known = [*path, part], known[part]
    where, *rest = key.split(".")
    if where == "space" and rest and rest[0] in KEYS:
        return f"the space leaves '{key}' at its default; to set it, write +{key}=..."
    if where == "hardware" and len(rest) > 1 and rest[0] in ("energy", "relative_energy"):
        return f"hardware.{rest[0]} names a table; to change an entry, copy it to a file: hardware.{rest[0]}=my.yaml"
    if where == "hardware" and rest and rest[0] in {field.name for field in fields(Hardware)}:
        return f"the preset leaves '{key}' at its default; to set it, write +{key}=..."
    names = [".".join([*path, str(name)]) for name in known] if isinstance(known, DictConfig) else []
    return f"no config key is called '{key}'.{near_miss(key, names)}"
