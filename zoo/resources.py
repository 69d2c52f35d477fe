"""Find the recipes, wherever the package is installed.

A wheel carries `configs/` as `zoo/configs`; a checkout (or an editable install) has it beside the package.
"""

from pathlib import Path

from zoo.nearest import did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def configs_folder() -> Path:
    """The folder of the recipes: `zoo/configs` of a wheel, `configs` of a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def list_configs() -> list[str]:
    """Names of all recipes, relative to the folder and without suffix: `quickstart`, `repvgg/a0`, …"""
    folder = configs_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """The file that `name` means: a path that exists, or a recipe by name.

    A recipe may be written as `quickstart`, `quickstart.yaml` or, as in a checkout,
    `configs/quickstart.yaml`, so a README command works from any working directory.

    Raises:
        ValueError: neither a file nor a recipe; the message lists near names, or says where all are.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipe = path.as_posix().removeprefix("configs/").removesuffix(".yaml")
    recipes = list_configs()
    if recipe in recipes:
        return configs_folder() / f"{recipe}.yaml"
    hint = did_you_mean(recipe, recipes, f"the {len(recipes)} recipes are in {configs_folder()}")
    raise ValueError(f"no configuration {str(name)!r}: it is neither a file nor a recipe; {hint}")
