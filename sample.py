# PYTHON_ARGCOMPLETE_OK
"""Restore images: python sample.py [flags] [key=value ...]; without any flag, the demo.

    python sample.py --data-root DIR --split test --task super_resolution --solver resample --model models/demo-latent
    python sample.py --task ct_parallel_20 mri_x4 --solver daps codps --model models/demo-patch --num-samples 4      # a grid
    python sample.py --measurements --task super_resolution --data-root DIR             # DIR holds what was measured
    python sample.py --measurements scan.h5 --task mri                                  # k-space as the scanner wrote it
    python sample.py --measurements scan.npy --task ct                                  # a sinogram, its geometry in scan.yaml
    python sample.py --solver prior --seeds 0-15                                        # draws from the prior itself

Dashes and underscores are the same. key=value overrides the merged configuration, e.g. solver.params.eta=0.5.
Exit codes: 0 all done, 1 some images failed (listed), 2 a mistake in what was asked (one line says which).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ldm import catalogue, plugins
from ldm import config as configuration
from solvers.run import door, flags, topology
from solvers.run.parts import checked


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the key=value overrides."""
    options, overrides, unknown = flags.parse(argv, __doc__)
    flags.parser("").refuse_unknown(unknown)
    return options, overrides


def main(argv: Sequence[str]) -> int:
    return door.run(
        "sample.py",
        argv,
        lambda: work(*parse(argv)),
        ": lower --batch-size, or use --precision bf16-mixed",
    )


def work(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """What can be wrong without a network is looked at first; torch and Lightning, which take seconds, are imported then."""
    if options.allow_env:
        configuration.admit_resolvers()
    for name in options.plugin:
        plugins.admit(name)
    configs = configurations(options, overrides)
    if options.print_config:
        print("---\n".join(configuration.dump(config) for config in configs.values()), end="")
        return 0
    if options.save_dir is None and (job := topology.detect(os.environ).job):
        options.save_dir = Path("results") / job
    demo = flags.complete(options, {name: "operator" in config for name, config in configs.items()})
    flags.look(options)

    from solvers.run import restoration

    return restoration.restore(options, configs, demo)


def configurations(
    options: argparse.Namespace, overrides: Sequence[str]
) -> dict[str, configuration.Node]:
    """One merged configuration per cell of the grid, by name."""
    grid = catalogue.grid(options.base, options.task or [], options.solver or [], overrides)
    return {name: checked(config) for name, config in grid.items()}


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names need not be UTF-8
    topology.heed()  # Lightning's own handler only takes note of SIGTERM, and calls this one too
    sys.exit(main(sys.argv[1:]))
