"""The groups of configurations and their options: lightpose's and the user's."""

from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightpose.conf_files import conf_dir


def conf_dirs() -> list[Path]:
    """Folders of options, the user's own first."""
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        own = [Path(source.path) for source in sources if source.schema == "file" and Path(source.path) != conf_dir()]
    else:
        arguments = get_args_parser().parse_known_args()[0]
        own = [Path(arguments.config_dir)] if arguments.config_dir else []
    return [*own, conf_dir()]


def given_dir() -> str | None:
    """The folder that ``--config-dir`` named when this run was composed, perhaps in another process."""
    sources = HydraConfig.get().runtime.config_sources
    return next((source.path for source in sources if source.provider == "command-line"), None)


def groups_of(config_name: str) -> list[str]:
    """Names of the groups in a command's configuration."""
    root: Any = OmegaConf.load(conf_dir() / f"{config_name}.yaml")
    defaults = root.get("defaults", [])
    nested = [group for name in defaults if isinstance(name, str) and name != "_self_" for group in groups_of(name)]
    return sorted(nested + [next(iter(entry)) for entry in defaults if not isinstance(entry, str)])


def group_files(group: str) -> dict[str, Path]:
    """Option → file of one group, sorted."""
    folders = [folder / group for folder in reversed(conf_dirs())]
    files = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in folders
        for path in folder.rglob("*.yaml")
    }
    return dict(sorted(files.items()))


def read_option(path: Path) -> Any:
    """Content of an option's file; nothing for one that can't be read, which is named where somebody chooses it."""
    try:
        return OmegaConf.load(path)
    except Exception:
        return OmegaConf.create()


def help_lines(config_name: str) -> str:
    """The groups of a command with their options, and its keys with their comments, as a template of Hydra's help."""
    _, _, rest = (conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8").partition("\n\n")  # its defaults
    keys = rest.partition("\nhydra:")[0].strip("\n")
    text = f"Keys (key=value):\n\n{keys.replace('$', '$$')}"
    if groups := groups_of(config_name):
        lines = "\n".join(f"{group}: {', '.join(group_files(group))}" for group in groups)
        text = f"Groups (group=option):\n\n{lines}\n\n{text}\n\nAll keys, as these and the groups make them:\n\n$CONFIG"
    return text
