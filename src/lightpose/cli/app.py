"""What the commands share: Hydra's start, and errors that a person can act on. Imports nothing heavy."""

import contextlib
import difflib
import gc
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightpose.cli.arguments import path_given, with_inner_options, with_literal_paths
from lightpose.cli.groups import conf_dirs, given_dir, group_files, groups_of, help_lines, read_option
from lightpose.cli.options import check_types
from lightpose.conf_files import conf_dir
from lightpose.errors import UserError, in_short
from lightpose.runtime.imports import quick_imports
from lightpose.runtime.signals import NAMES, Interrupted, is_started_by_lightning, received, watched

log = logging.getLogger(__name__)

_PARTS = ("augment", "callbacks", "logger", "metric", "skeleton")
"""Groups to which parts may be added by name, or whose keys are compared with what is known."""


def _experiment() -> str:
    """The experiment on the command line; Hydra resolves it too late for the folder of a sweep."""
    chosen = [argument.removeprefix("experiment=") for argument in sys.argv if argument.startswith("experiment=")]
    return chosen[-1] if chosen else "custom"


def _where(gpu: Any, cpu: Any) -> Any:
    """One of two values, for a machine with a GPU and for one that computes on its CPU.

    Hydra chooses options before there is a value of ``trainer.accelerator``, so the command line is asked.
    """
    if "cpu" in [path_given([argument], "trainer.accelerator") for argument in sys.argv]:
        return cpu
    with quick_imports():
        import torch  # only for the experiments that ask

    return gpu if torch.accelerator.is_available() else cpu


OmegaConf.register_new_resolver("experiment", _experiment, replace=True)
OmegaConf.register_new_resolver("where", _where, replace=True)


def run(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    """Run ``task`` on the configuration that ``conf/<config_name>.yaml`` and the command line compose.

    A `UserError`, or a mistake in the command line, becomes one paragraph on stderr and exit code 1; with
    ``LIGHTPOSE_DEBUG=1`` the traceback comes before it. Ctrl-C and SIGTERM end with 130 and 143.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and the message is ours to write
    # With the 8 queues that CUDA makes by itself, the work that prepares a batch waits behind graphs of the network.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or a process that ends tells of the others, with stacks
    quieten()
    HydraConfig.instance().cfg = None  # of another command in this process
    OmegaConf.register_new_resolver("keys", lambda: help_lines(config_name), replace=True)  # for the help text

    composed = False

    def guarded(config: DictConfig) -> Any:
        nonlocal composed
        composed = True
        quieten()  # a job of several may run in another process
        if folder := given_dir():
            _find_parts(folder)
        several = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            check_keys(config, config_name)
            check_types(config, config_name)
            return task(config)
        except BaseException as error:
            prune(Path(HydraConfig.get().runtime.output_dir))
            if is_started_by_lightning() and (signum := received()) is not None:  # process 0 is gone
                raise Interrupted(signum) from error
            if not several or not isinstance(error, Exception):
                if isinstance(error, UserError):
                    stop(str(error))
                raise
            refused = _refused(error)
        finally:
            if several:
                gc.collect()  # the next job needs the memory
        raise refused  # out here it doesn't hold on to the exception, whose frames hold the network; others go on

    try:
        with watched():
            sys.argv[1:] = with_inner_options(with_literal_paths(sys.argv[1:], config_name))
            _check_flags(sys.argv[1:])
            with _composed_once(sys.argv[1:]):
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(guarded)()
    except UserError as error:
        stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        stop(explain(error, config_name))
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif error.filename is None:
            raise
        else:
            stop(
                f"{error.filename} can't be used ({error.strerror}); see to its rights and space, or give another path"
            )
    except Interrupted as interruption:
        if not is_started_by_lightning():
            name, where = NAMES[interruption.signum], str(interruption)  # type: ignore[index]
            print(f"stopped by {name}" + (f": {where}" if where else ""), file=sys.stderr)
        sys.exit(interruption.exit_code)
    except Exception as error:
        if composed:
            raise
        stop(explain(error, config_name))  # Hydra has refused the command line with whatever came to hand


@contextlib.contextmanager
def _composed_once(arguments: list[str]) -> Iterator[None]:
    """Spare Hydra from composing all of it twice, the first time only to see whether a file sets ``hydra.mode``."""
    looks = Hydra.get_mode
    plain = not any(argument.startswith("-") or "hydra" in argument for argument in arguments)  # such as --config-dir
    if plain and not any("MULTIRUN" in path.read_text(encoding="utf-8") for path in conf_dir().rglob("*.yaml")):
        Hydra.get_mode = lambda *args, **options: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = looks  # type: ignore[method-assign]


def _check_flags(arguments: list[str]) -> None:
    """Refuse what Hydra would answer with its usage, all 30 lines; let parts be imported from ``--config-dir``, too.

    Raises:
        UserError: for an unknown flag, for a flag among the keys, where argparse loses those after it, and for a folder
            of options that isn't there, or has one of the name of one of ours.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; flags such as -m come before all keys, and --help lists the keys")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    folder = parser.parse_args(arguments).config_dir
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir={folder} is no folder; give the one that holds yours, such as {folder}/head")
    for group in (place for place in conf_dir().iterdir() if place.is_dir()):
        for path in (Path(folder) / group.name).rglob("*.yaml"):
            if (conf_dir() / path.relative_to(folder)).exists():  # which Hydra would take instead
                raise UserError(f"{path} has the name of an option of lightpose; give the file another name")
    _find_parts(folder)


def _find_parts(folder: str) -> None:
    """Let parts be imported from a folder."""
    if (place := str(Path(folder).absolute())) not in sys.path:
        sys.path.append(place)


def _refused(error: Exception) -> UserError:
    """What a job of several raises in place of an exception: something that travels to other processes."""
    if isinstance(error, UserError):
        print(visible(f"refused: {error}"), file=sys.stderr)
        return UserError(str(error))
    traceback.print_exc()
    return UserError(f"{type(error).__name__}: {in_short(error, 600)}")


def prune(folder: Path) -> None:
    """Remove ``folder`` and its parents, as far as they are empty and this command made them."""
    folder = folder.absolute()
    with contextlib.suppress(OSError):  # not empty
        while FoldersBefore.missing and folder.is_relative_to(FoldersBefore.missing):
            folder.rmdir()
            folder = folder.parent


def quieten() -> None:
    """Keep libraries from telling users what they can't act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
    logging.getLogger("torch").setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what can't be imported is told once, see options.py
    for message in (
        ".*treespec, LeafSpec.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*could not find the monitored key.*",
        ".*Total length of .* across ranks is zero.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*when logging on epoch level in distributed setting.*",  # the figures are those of all processes already
        ".*your dataloader is not resumable.*",  # the callback Resume sees to it
        ".*in eval mode at the start of training.*",  # parts with a learning rate of 0 are
        ".*FSDP2-wrapped module .* returned a view tensor.*",
        ".*callbacks used to create the checkpoint need to be provided.*",  # whether they matter is the user's choice
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # see callbacks/resume.py
    ):
        warnings.filterwarnings("ignore", message)


def stop(message: str) -> NoReturn:
    """Print the message, with the traceback of the exception at hand if the user debugs, and exit with code 1."""
    if os.environ.get("LIGHTPOSE_DEBUG") == "1":
        traceback.print_exc()
    print(visible(f"error: {message}"), file=sys.stderr)
    sys.exit(1)


def visible(text: str) -> str:
    """The text with control characters spelt out: names from files may hold commands for the terminal."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


class VisibleFormatter(logging.Formatter):
    """Log lines as `visible` text."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return visible(super().format(record))


def explain(error: Exception, config_name: str) -> str:
    """One sentence for a mistake in the command line, with the nearest names that exist."""
    text = str(error)
    if "Config group override must be a string" in text:
        groups = [
            argument for argument in sys.argv if argument in {f"{group}=null" for group in groups_of(config_name)}
        ]
        return f"{' '.join(groups) or 'hydra=null'}: a group takes one of its options; see --help for them"
    launcher = re.search(r"(?:In|Could not find) 'hydra/launcher/(processes|slurm|ray)'", text)
    if launcher:
        extra = {"processes": "sweep", "slurm": "cluster", "ray": "ray"}[launcher[1]]
        return f'hydra/launcher={launcher[1]} needs a plugin that isn\'t installed: pip install "lightpose[{extra}]"'
    option = re.search(r"Could not find '([\w/]+)'\n\nAvailable options in '([\w/]+)':", text)
    if option:
        group = option[2]
        options = list(group_files(group))
        name = option[1].removeprefix(f"{group}/")
        return f"{group}={name} is not an option; {_nearest(name, options)} Options: {', '.join(options)}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        name = key[1].split("@")[-1]
        inner = re.fullmatch(r"(head|codec)\.\1", name)
        if inner:
            return (
                f"{name} stands inside a wrapper; add head=visibility codec=visibility, or give {inner[1]}=... (a "
                f"wrapper of your own has `/{inner[1]}@{inner[1]}: NAME` in the defaults of its YAML)"
            )
        more = f" (+{name}=... adds a new key)" if "." in name else ""
        return f"there is no key {name!r}; {_nearest(name, sorted({*_keys(config_name)} - {name}))}{more}"
    missing = re.search(r"Missing mandatory value: (\S+)", text)
    if missing:
        return f"{missing[1]} is not given; add {missing[1]}=... to the command"
    malformed = re.search(r"Error parsing override '(.*?)'\n", text)
    if malformed:
        return f"{malformed[1]!r} can't be read; expected key=value or group=option, odd characters in quotes"
    unread = re.search(r"(?:LexerNoViableAltException: |no viable alternative at input )(.*)", text)
    if unread:
        return f"{unread[1]} can't be read; put what has odd characters in quotes, as in \"key=['a (b)',c]\""
    damaged = re.search(r"(.*)\n? *in \"(.+?)\", line (\d+), column \d+\s*$", text, re.DOTALL)
    if damaged:
        return f"{damaged[2]} is no YAML file ({' '.join(damaged[1].split())} in line {damaged[3]}); mend it"
    return " ".join(text.split())


def check_keys(config: DictConfig, config_name: str) -> None:
    """Refuse keys that the command line adds and nothing reads, and root keys that it removes.

    A key is read where a class is built from it, where another value refers to it, or by a check of its own (`_PARTS`).

    Raises:
        UserError: with the nearest keys that there are.
    """
    text = OmegaConf.to_yaml(config)
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+~").partition("=")[0].rpartition("@")[2].replace("/", ".")
        if override.startswith("~") and "." not in key:
            raise UserError(f"{override}: the command needs this key; give it another value")
        is_group = any((folder / override.lstrip("+").partition("=")[0]).is_dir() for folder in conf_dirs())
        if not override.startswith("+") or is_group or _is_read(key, config_name, OmegaConf.to_container(config), text):
            continue
        raise UserError(f"{override}: nothing reads {key}; {_nearest(key, sorted(set(_keys(config_name))))}")
    for override in HydraConfig.get().overrides.hydra:
        key = override.lstrip("+").partition("=")[0]
        if override.startswith("+hydra.") and key.split(".")[1] not in HydraConf.__dataclass_fields__:
            raise UserError(f"{override}: Hydra has no key {key}; see --hydra-help")


def _is_read(key: str, config_name: str, node: Any, text: str) -> bool:
    group, _, rest = key.partition(".")
    if (rest and group in _PARTS and group in groups_of(config_name)) or key in _plain_keys(config_name):
        return True
    if re.search(rf"\$\{{\.*({re.escape(key)}|{re.escape(key.rpartition('.')[2])})\b", text):
        return True
    for part in key.split("."):
        if not isinstance(node, dict) or "_target_" in node:
            return isinstance(node, dict)
        node = node.get(part)
    return False


def _plain_keys(config_name: str) -> set[str]:
    """Keys of a command's own file, and of those groups that only hold values."""
    root: Any = OmegaConf.load(conf_dir() / f"{config_name}.yaml")
    keys = {str(key) for key in root} - {"defaults", "hydra"}
    for name in root.get("defaults", []):
        if isinstance(name, str):
            keys |= _plain_keys(name) if name != "_self_" else set()
            continue
        group = str(next(iter(name)))
        options: list[Any] = [read_option(path) for path in group_files(group).values()]
        keys |= {group, *(f"{group}.{key}" for option in options if "_target_" not in option for key in option)}
    return keys


def _nearest(name: str, known: list[str]) -> str:
    leaf = name.rsplit(".", 1)[-1]
    known = [key for key in known if "." in key or "." not in name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    near += [key for key in known if key.rsplit(".", 1)[-1] == leaf and key not in near][:3]
    return f"did you mean {' or '.join(near)}?" if near else "see --help for what there is."


def _keys(config_name: str) -> Iterator[str]:
    """Dotted keys of the configuration that the chosen options make, and the names of its groups."""
    arguments = get_args_parser().parse_known_args()[0]
    folders = conf_dirs()
    groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    given = [(override, *override.partition("=")[::2]) for override in arguments.overrides]
    taken = groups_of(config_name)
    chosen = [override for override, group, option in given if group in taken and option in group_files(group)]
    GlobalHydra.instance().clear()
    searched = [f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in folders[:-1])}]"]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(config_name, chosen + searched)

    def walk(node: Any, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if "." in str(key):  # one of those that a search goes through
                    continue
                yield f"{prefix}{key}"
                yield from walk(value, f"{prefix}{key}.")

    yield from walk(OmegaConf.to_container(config), "")
    yield from groups


class FoldersBefore(Callback):
    """Hydra callback that notes which folder of the output's path is the first that isn't there yet.

    It also undoes the ``multirun.yaml`` that Hydra writes for every sweep, over whatever has that name.
    """

    missing: Path | None = None
    _record: tuple[Path, bytes | None] | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look before one run."""
        self._look(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Look before a sweep."""
        folder = Path(config.hydra.sweep.dir)
        self._look(folder)
        record = folder.absolute() / "multirun.yaml"
        self._record = record, record.read_bytes() if record.is_file() else None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of one run, or of each of a sweep."""
        if self._record is not None:
            path, before = self._record
            path.unlink(missing_ok=True) if before is None else path.write_bytes(before)

    def _look(self, folder: Path) -> None:
        folder = folder.absolute()
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        FoldersBefore.missing = missing[-1] if missing else None
