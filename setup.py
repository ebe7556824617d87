"""The build of the package, which puts the configurations of ``configs/`` inside of it; see ``pyproject.toml``."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """A build that copies ``configs/*.yaml`` into the package, where ``--config NAME`` finds them."""

    def _configs(self) -> dict[str, str]:
        """Return the source of each configuration by its place in the build."""
        target = Path(self.build_lib, "pyro_mmvae", "configs")
        return {str(target / file.name): str(file) for file in sorted(Path("configs").glob("*.yaml"))}

    def run(self) -> None:
        """Build the modules, then copy the configurations; an editable installation reads ``configs/`` itself."""
        super().run()
        if not self.editable_mode:
            for target, source in self._configs().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files of the build.

        Args:
            include_bytecode: If True (default), compiled modules are included.
        """
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._configs())]


setup(cmdclass={"build_py": BuildWithConfigs})
