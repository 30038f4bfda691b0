"""Pruning as a pass of Microsoft Olive.

Olive finds passes by a file that lists them. `package_config` gives Olive's own list with this
pass added; `python -m lbyl_onnx.integrations.olive` prints it, for `olive run --package-config`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from olive.search.search_parameter import Categorical

from lbyl_onnx import config as lbyl_onnx_config
from lbyl_onnx.config import DEFAULTS, OPTIONS, Config
from lbyl_onnx.pipeline import compress

NAME = "LbylPruning"
# What Olive tries for the ratio where it is told to search.
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)


class LbylPruning(Pass):
    """Prune the channels of an ONNX model and restore what they carried, without data.

    It takes the options of `lbyl_onnx.Config` under their names.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        types = get_type_hints(Config, vars(lbyl_onnx_config))
        search = {"ratio": Categorical(list(RATIOS))}
        return {
            name: PassConfigParam(
                type_=types[name],
                default_value=DEFAULTS[name],
                search_defaults=search.get(name),
                description=option.help,
            )
            for name, option in OPTIONS.items()
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        """Compress; what cannot be pruned raises, as Olive's own passes do."""
        path = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        path.parent.mkdir(parents=True, exist_ok=True)
        options = Config(**{name: getattr(config, name) for name in OPTIONS})
        compress(model.model_path, path, config=options, force=True)
        if len(list(path.parent.iterdir())) > 1:  # with its external data
            return ONNXModelHandler(model_path=str(path.parent), onnx_file_name=path.name)
        return ONNXModelHandler(model_path=str(path))


def package_config() -> dict[str, Any]:
    """Return Olive's list of passes with this one added, for `olive.run(..., package_config=)`."""
    config: dict[str, Any] = json.loads(
        Path(OlivePackageConfig.get_default_config_path()).read_text()
    )
    config["passes"][NAME] = {
        "module_path": f"lbyl_onnx.integrations.olive.{NAME}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
    }
    return config


if __name__ == "__main__":
    print(json.dumps(package_config(), indent=2))
