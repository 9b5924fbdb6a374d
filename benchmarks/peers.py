"""What people use today to look at updates, on the same job; and the environments that hold it.

``python benchmarks/peers.py`` makes the environments ``.venv/peers`` and ``.venv/cockpit``: apart,
so that nothing of them is pulled down or up for the tests, layered on this interpreter's packages
by a .pth file, so that torch is not installed twice. Cockpit imports `pkg_resources`, which the
setuptools of the others no longer has.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cockpit_method import Cockpit
from jobs import Job
from methods import ByHand, Method, by_safetensors

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv" / "peers"
PACKAGES = (
    "wandb==0.31.0",
    "tensorboard==2.21.0",
    "nvdlfw-inspect==0.2.2",
    "weightwatcher==0.7.7",
    "safetensors==0.8.0",
)
COCKPIT = ENVIRONMENT.with_name("cockpit")
COCKPIT_PACKAGES = (
    "cockpit-for-pytorch==1.0.2",
    "backpack-for-pytorch==1.7.1",
    "torchvision==0.28.0",
    "setuptools<81",
)

STATISTICS = ("min", "max", "mean", "std", "l1_norm", "l2_norm")
"""All that nvdlfw-inspect's LogTensorStats knows."""


class Wandb(Method):
    """wandb.watch(log="all"), offline: histograms of every gradient and parameter."""

    first = 1  # it counts calls before it compares with log_freq
    sessions = False

    def attach(self, job: Job, folder: Path) -> None:
        """Begin an offline run."""
        wandb: Any = import_module("wandb")
        super().attach(job, folder)
        folder.mkdir(parents=True)
        settings = wandb.Settings(silent=True)
        self._run: Any = wandb.init(mode="offline", dir=folder, project="x", settings=settings)
        self._run.watch(job.model, log="all", log_freq=2)

    def after_step(self) -> None:
        """Hand the step's histograms over, as a training loop's log call does."""
        self._run.log({"step": 1})

    def close(self) -> None:
        """Take the hooks off."""
        self._run.unwatch(self.job.model)
        self._run.finish()


class TensorBoard(Method):
    """SummaryWriter.add_histogram of every gradient and parameter."""

    def attach(self, job: Job, folder: Path) -> None:
        """Open a writer."""
        from torch.utils.tensorboard import SummaryWriter

        super().attach(job, folder)
        self._writer: Any = SummaryWriter(str(folder))
        self._step = 0

    def after_step(self) -> None:
        """Add them."""
        for name, parameter in self.job.model.named_parameters():
            self._writer.add_histogram(f"parameters/{name}", parameter, self._step)
            self._writer.add_histogram(f"gradients/{name}", parameter.grad, self._step)
        self._step += 1

    def close(self) -> None:
        """Close the writer."""
        self._writer.close()


class Inspect(Method):
    """nvdlfw-inspect's LogTensorStats, all six statistics, of matrices and their gradients."""

    sessions = False

    def __init__(self, *tensors: str) -> None:
        """Choose what is looked at.

        Args:
            *tensors: "gradient", "weight".
        """
        self._tensors = tensors

    def attach(self, job: Job, folder: Path) -> None:
        """Write its configuration and initialize it."""
        super().attach(job, folder)
        folder.mkdir(parents=True)
        config = folder / "config.yaml"
        config.write_text(
            "all:\n  enabled: True\n  layers:\n    layer_name_regex_pattern: .*\n"
            "  LogTensorStats:\n    enabled: True\n"
            f"    tensors: [{', '.join(self._tensors)}]\n"
            f"    stats: [{', '.join(STATISTICS)}]\n    freq: 1\n"
        )
        self._api: Any = import_module("nvdlfw_inspect.api")
        self._api.initialize(str(config), log_dir=str(folder), default_logging_enabled=True)
        self._api.infer_and_assign_layer_names(job.model)

    def after_step(self) -> None:
        """Log every matrix; one process, so there is nothing to reduce."""
        for name, parameter in self.job.model.named_parameters():
            if parameter.ndim != 2:
                continue
            for tensor in self._tensors:
                value = parameter.grad if tensor == "gradient" else parameter.detach()
                self._api.log_tensor_stats(
                    name.removesuffix(".weight"),
                    tensor=value,
                    tensor_name=tensor,
                    skip_reduction=True,
                )
        self._api.step()

    def close(self) -> None:
        """End its process-wide manager."""
        self._api.end_debug()


PEERS: dict[str, Callable[[], Method]] = {
    "wandb.watch offline, log=all": lambda: Wandb(),
    "TensorBoard histograms": lambda: TensorBoard(),
    "nvdlfw-inspect, gradients": lambda: Inspect("gradient"),
    "nvdlfw-inspect, gradients and weights": lambda: Inspect("gradient", "weight"),
    "by hand: safetensors of every update": lambda: ByHand(lambda one: one, save=by_safetensors),
    "Cockpit, sizes of updates and gradients": lambda: Cockpit("sizes"),
    "Cockpit, economy": lambda: Cockpit("economy"),
}


def environment_of(method: str, peers: Path) -> Path:
    """Where a method's packages are: Cockpit's are in a folder beside the others'."""
    return peers.with_name(COCKPIT.name) if method.startswith("Cockpit") else peers


def interpreter(environment: Path) -> Path:
    """The Python of an environment."""
    return environment / "bin" / "python"


def make(environment: Path, packages: Sequence[str]) -> None:
    """Make an environment and install packages into it.

    Args:
        environment: a folder; made anew.
        packages: for pip.

    Raises:
        subprocess.CalledProcessError: pip could not install them, and has said why; the folder is
            removed.
    """
    venv.create(environment, clear=True, with_pip=True)
    here = sysconfig.get_paths()["purelib"]
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beneath = environment / "lib" / name / "site-packages" / "layered.pth"
    # by addsitedir, not as a bare path, so that the editable install's own .pth is read too
    beneath.write_text(f"import site; site.addsitedir({here!r})\n")
    pip = [str(interpreter(environment)), "-m", "pip", "install", "--quiet"]
    options = ["--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    try:
        subprocess.run([*pip, *options, *packages], check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(environment)
        raise


def main() -> None:
    """Make the environments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--environment",
        type=Path,
        default=ENVIRONMENT,
        help="where; Cockpit's beside (%(default)s)",
    )
    parser.add_argument("--missing", action="store_true", help="only what is not there")
    given = parser.parse_args()
    failed = False
    for where, packages in (
        (given.environment, PACKAGES),
        (given.environment.with_name(COCKPIT.name), COCKPIT_PACKAGES),
    ):
        if given.missing and interpreter(where).exists():
            continue
        try:
            make(where, packages)
        except subprocess.CalledProcessError as error:
            print(f"{where}: pip ended with exit code {error.returncode}", file=sys.stderr)
            failed = True
        else:
            print(f"{where}: {', '.join(packages)}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
