"""The sweeper of lightpose-train; Hydra takes plugins from this namespace alone, and reads it for every application."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class LightposeSweeper(BasicSweeper):
    """Runs all combinations of the values given, or searches; see `lightpose.cli.sweep.sweeper`."""

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs and print what they reached."""
        from lightpose.cli.sweep.sweeper import Sweep

        Sweep(self).run(arguments)
